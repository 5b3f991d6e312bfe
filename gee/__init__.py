"""Deep spiking neural networks whose weights are grown from genes."""
