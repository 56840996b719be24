"""Settings of the documentation site, which `python -m sphinx -W docs build/docs` builds."""

from importlib.metadata import version as installed_version

project = "resnet_sweep"
author = "the resnet_sweep authors"
copyright = "2026, the resnet_sweep authors"
version = release = installed_version("resnet-sweep")

extensions = ["myst_parser", "sphinx_copybutton"]
myst_enable_extensions = ["colon_fence"]
# Headings of these levels can be linked to, as on GitHub: page.md#a-heading.
myst_heading_anchors = 3
# A link that leads nowhere is a warning, and -W makes it an error.
nitpicky = True

html_theme = "furo"
html_title = f"resnet_sweep {version}"
# What is copied from a transcript is the command alone.
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True
copybutton_line_continuation_character = "\\"
