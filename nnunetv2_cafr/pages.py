"""The pages' templates: every value is escaped, and a value that is missing is an error, not a gap.

A package keeps its page in its folder `templates`, one topic a file, begun by `{% extends "shared/layout.html" %}`.
What pages share lies in the folder `templates` beside this module, under "shared/": layout, style, small pieces.
"""

from functools import cache

from jinja2 import ChoiceLoader, Environment, PackageLoader, PrefixLoader, StrictUndefined


@cache
def environment(package: str) -> Environment:
    """The templates of `package`, such as "nnunetv2_cafr.report"."""
    shared = PrefixLoader({"shared": PackageLoader(__package__)})
    templates = Environment(
        loader=ChoiceLoader([PackageLoader(package), shared]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["hex"] = lambda colour: "#{:02X}{:02X}{:02X}".format(*colour)
    return templates
