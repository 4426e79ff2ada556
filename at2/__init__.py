"""Context attribution with attention (AT2): which parts of the context did the model use?

Order of reading: text → model → tasks → estimator → methods → training → evaluation; display.
What can be imported from here is in `__init__.pyi`. It is imported when it is used first, so that
modules that need no model, such as `at2.settings`, do not load the libraries of those that do.
"""

import lazy_loader

from at2._version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
