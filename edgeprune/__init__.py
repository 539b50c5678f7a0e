"""edgeprune: prune a trained image classifier, prove every exported file, publish only what passed.

The way through is recipe -> data -> model -> plan -> prune -> recover -> audit -> export -> verify -> publish;
``edgeprune.pipeline`` is the only module that sequences the stages and ``edgeprune.cli`` the only one that prints.
"""

__version__ = "0.1.0"
