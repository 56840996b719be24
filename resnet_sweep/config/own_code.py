"""Digests of the user's own code, which the signature of a run contains.

Own code is the modules of trusted packages that a config names, and the modules that these import.
An imported module counts if its package is trusted, or if it lies in the same folder as a trusted
package and this folder isn't `site-packages`. The files are parsed, and not executed.
"""

import ast
import importlib.util
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import blake2b
from importlib.machinery import ModuleSpec, PathFinder
from itertools import accumulate
from pathlib import Path
from typing import Any

from resnet_sweep.config.instantiate import WHITELIST, trusted_packages
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.signature import CODE

# Their versions are recorded, and NUMERICS covers the code of this package.
_LIBRARIES = {entry.partition(".")[0] for entry in WHITELIST}
# Groups whose objects don't affect what is trained.
_INCIDENTAL_GROUPS = {"logger"}
_INSTALLED = ("site-packages", "dist-packages")


@dataclass(frozen=True)
class OwnCode:
    """The own code of a run.

    Attributes:
        digests: digests of the files, by names such as `code.mine/loss.py`.
        folder: a folder of the code; None if there is none, or if the package is installed.
        notes: a sentence for each class whose code can't be digested.
    """

    digests: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Module:
    """A module, as it was when its file was read.

    Attributes:
        path: its file; None if it has none, such as a package without `__init__.py`.
        name: name of the file for users, such as `mine/loss.py`.
        imports: full names of the own modules that it imports.
        loaded: the `__spec__` of the imported module; None if it wasn't imported yet.
        stat: identifies the content of the file.
    """

    path: Path | None
    name: str
    digest: str
    imports: tuple[str, ...]
    loaded: ModuleSpec | None
    stat: tuple[int, ...]

    def is_current(self, spec: ModuleSpec, loaded: ModuleSpec | None) -> bool:
        """Return whether Python uses, or would import, the code that was read."""
        # Python continues to use the code that it has imported, even if the file changes.
        if self.loaded is not None or loaded is not None:
            return self.loaded is loaded
        return str(self.path) == spec.origin and self.stat == _stat(self.path)


# The modules that were read, by the trusted packages and the full name.
_known: dict[tuple[tuple[str, ...], str], _Module] = {}


def own_code(config: Mapping[str, Any]) -> OwnCode:
    """Return the own code that the objects of a config use.

    Raises:
        ConfigError: a file was changed after this process had imported it.
    """
    trusted = tuple(trusted_packages())
    notes: list[str] = []
    waiting: list[str] = []
    for target in dict.fromkeys(
        target
        for group, node in config.items()
        if group not in _INCIDENTAL_GROUPS
        for target in _targets(node)
    ):
        if not target.startswith(tuple(f"{package}." for package in trusted)):
            continue
        if target.partition(".")[0] in _LIBRARIES:
            continue
        modules = [name for name in _prefixes(target) if _read(name, trusted) is not None]
        waiting += modules
        if not modules or not _file_of(modules[-1], trusted):
            notes.append(f"the code of {target} isn't in a file, so changes of it aren't noticed")
    found: dict[str, _Module] = {}
    while waiting:
        name = waiting.pop()
        if name not in found and (module := _read(name, trusted)) is not None:
            found[name] = module
            waiting += module.imports
    files = sorted((module for module in found.values() if module.path), key=lambda file: file.name)
    folders = [module.path.parent for module in files if module.path and not _installed(module)]
    return OwnCode(
        digests={f"{CODE}{module.name}": module.digest for module in files},
        folder=folders[0] if folders else None,
        notes=notes,
    )


def _targets(node: Any) -> Iterator[str]:
    """Yield the value of each `_target_` in a part of a config."""
    if isinstance(node, Mapping):
        if isinstance(target := node.get("_target_"), str):
            yield target
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from _targets(value)


def _prefixes(name: str) -> list[str]:
    """Return a, a.b and a.b.c for a.b.c; an import of the last also imports the others."""
    return [*accumulate(name.split("."), "{}.{}".format)]


def _file_of(name: str, trusted: tuple[str, ...]) -> Path | None:
    module = _read(name, trusted)
    return None if module is None else module.path


def _read(name: str, trusted: tuple[str, ...]) -> _Module | None:
    """Return a module; None if there is none with this name."""
    loaded: ModuleSpec | None = getattr(sys.modules.get(name), "__spec__", None)
    spec = loaded or _find(name)
    if spec is None:
        return None
    known = _known.get((trusted, name))
    if known is not None and known.is_current(spec, loaded):
        return known
    module = _parse(spec, loaded, trusted)
    if loaded is not None and _is_outdated(module):
        raise ConfigError(
            f"{module.name} was changed after this process had imported it, so the process still "
            "uses the old code: restart the process, or the kernel of the notebook"
        )
    _known[trusted, name] = module
    return module


def _is_outdated(module: _Module) -> bool:
    """Return whether the file of an imported module was changed after the import.

    When Python imports a file, it writes the size and the modification time of the file into the
    header of the cached bytecode (PEP 552). Without cached bytecode, nothing is known.
    """
    if module.path is None or module.path.suffix != ".py":
        return False
    try:
        with open(importlib.util.cache_from_source(str(module.path)), "rb") as file:
            header = file.read(16)
        status = os.stat(module.path)
    except (OSError, NotImplementedError):
        return False
    flags, time, size = (
        int.from_bytes(header[start : start + 4], "little") for start in (4, 8, 12)
    )
    # With other flags, the header contains a hash of the file.
    if len(header) < 16 or flags != 0:
        return False
    limit = 2**32
    return (time, size) != (int(status.st_mtime) % limit, status.st_size % limit)


def _find(name: str) -> ModuleSpec | None:
    """Find a module without importing it or the packages that contain it."""
    spec: ModuleSpec | None = None
    for prefix in _prefixes(name):
        if spec is None:
            # A name may be in sys.modules without a __spec__, as __main__ is.
            try:
                spec = importlib.util.find_spec(prefix)
            except (ImportError, ValueError):
                return None
        elif spec.submodule_search_locations is None:
            return None
        else:
            spec = PathFinder.find_spec(prefix, list(spec.submodule_search_locations))
        if spec is None:
            return None
    return spec


def _parse(spec: ModuleSpec, loaded: ModuleSpec | None, trusted: tuple[str, ...]) -> _Module:
    """Read the file of a module, and find its imports."""
    if not spec.has_location or spec.origin is None:
        return _Module(None, "", "", (), loaded, ())
    path = Path(spec.origin)
    stat = _stat(path)
    # A module in a zip file has no file of its own, so its loader reads it.
    content: bytes = getattr(spec.loader, "get_data", lambda origin: b"")(spec.origin)
    package = spec.name if spec.submodule_search_locations is not None else spec.parent or ""
    folders = package.split(".") if package else []
    digested = content
    imports: tuple[str, ...] = ()
    if path.suffix == ".py":
        try:
            with warnings.catch_warnings(action="ignore"):
                tree = ast.parse(content)
            imports = tuple(_imports(tree, package, trusted))
            # In a thread, the depth at which a tree is too deep doesn't depend on the caller.
            with ThreadPoolExecutor(1) as executor:
                text = executor.submit(_describe, tree).result()
            digested = text.encode(errors="surrogatepass")
        # The file isn't valid Python, or too deeply nested.
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            pass
    digest = blake2b(digested, digest_size=8).hexdigest()
    return _Module(path, "/".join([*folders, path.name]), digest, imports, loaded, stat)


def _describe(node: object) -> str:
    """Return a syntax tree as text, without docstrings, comments and layout.

    It is the same in all versions of Python, because fields without a value are left out.
    """
    if isinstance(node, list):
        return f"[{','.join(map(_describe, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    fields.pop("kind", None)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
        fields["body"] = node.body[1:]
    described = (
        f"{name}={_describe(value)}"
        for name, value in fields.items()
        if value is not None and value != []
    )
    return f"{type(node).__name__}({','.join(described)})"


def _imports(tree: ast.AST, package: str, trusted: tuple[str, ...]) -> Iterator[str]:
    """Yield the own modules that a module of a package imports anywhere."""
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            try:
                relative = "." * node.level + (node.module or "")
                base = importlib.util.resolve_name(relative, package)
            except ImportError:
                continue
            # An imported name may be a module.
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    own = {top for top in {name.partition(".")[0] for name in found} if _is_own(top, trusted)}
    for name in dict.fromkeys(prefix for full in found for prefix in _prefixes(full)):
        if name.partition(".")[0] in own and (name in sys.modules or _find(name) is not None):
            yield name


def _is_own(top: str, trusted: tuple[str, ...]) -> bool:
    """Return whether a top-level module is trusted, or lies beside a trusted one."""
    if top in _LIBRARIES or top in sys.stdlib_module_names:
        return False
    packages = {package.partition(".")[0] for package in trusted}
    if top in packages:
        return True
    folder = _folder(top)
    return (
        folder is not None
        and folder.name not in _INSTALLED
        and any(folder == _folder(package) for package in packages)
    )


def _folder(top: str) -> Path | None:
    """Return the folder from which a top-level module is imported."""
    spec = _find(top)
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(spec.submodule_search_locations[0]).parent
    return Path(spec.origin).parent if spec.has_location and spec.origin else None


def _installed(module: _Module) -> bool:
    return module.path is not None and any(name in module.path.parts for name in _INSTALLED)


def _stat(path: Path | None) -> tuple[int, ...]:
    try:
        status = os.stat(path or "")
    except OSError:
        return ()
    return status.st_ino, status.st_mtime_ns, status.st_size
