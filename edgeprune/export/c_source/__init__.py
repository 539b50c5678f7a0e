"""An int8 TFLite file as C++ source that drops into firmware: model, settings, preprocessing, self-test.

The texts lie in ``templates/``; ``render`` fills in what was measured.
"""

from edgeprune.export.c_source.render import render_c_source

__all__ = ["render_c_source"]
