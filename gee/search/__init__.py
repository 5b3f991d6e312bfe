"""Evolution of the distributions that genes begin from, by CMA-ES, on one machine or on many.

from gee.search import SearchConfig, evolve

result = evolve(SearchConfig(generations=3))
print(result.accuracy, result.parameters, result.energy_mj)
network = result.load_model()
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gee.search.config import SearchConfig
    from gee.search.evolution import SearchResult, evolve, resume_config
    from gee.search.loop import Callback

__all__ = ["Callback", "SearchConfig", "SearchResult", "evolve", "resume_config"]

_HOMES = {"Callback": "loop", "SearchConfig": "config"}


def __getattr__(name: str) -> Any:
    # Only when asked for: the loop, the optimiser and the executors work without torch.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'evolution')}"), name)
