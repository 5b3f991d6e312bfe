"""Evolution of the genes' initial distributions by CMA-ES, on one machine or on many."""
