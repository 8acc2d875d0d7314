"""The measure inside other people's loops: Torch-Pruning, torch.nn.utils.prune, transformers, Lightning.

Each name is imported on first use, and with it the library it belongs to.
"""

from onlyforward.core.lazy import attach

PUBLIC = {
    "ConnectImportance": "onlyforward.prune.integrations.depgraph",
    "ConnectPruner": "onlyforward.prune.integrations.depgraph",
    "ConnectUnstructured": "onlyforward.prune.integrations.masking",
    "ConnectCallback": "onlyforward.prune.integrations.trainer",
    "ConnectLoss": "onlyforward.prune.integrations.trainer",
    "ConnectLightning": "onlyforward.prune.integrations.lightning",
}

__all__ = sorted(PUBLIC)
__getattr__, __dir__ = attach(__name__, PUBLIC)
