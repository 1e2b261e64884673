"""What can go wrong in a registry tree, as exceptions that carry their facts as attributes.

Every class is also a built-in error that callers of MMEngine's registry already catch: names that
are not found or taken twice are ``KeyError``; bad arguments are ``TypeError`` or ``ValueError``.
"""

from __future__ import annotations

from collections.abc import Sequence


class RegistryError(Exception):
    """Base of all errors of this package.

    Attributes:
        message: The text.
        config_path: Where in the config it happened, such as ``"model.backbone"``, or "".
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message
        self.config_path = ""

    def __str__(self) -> str:
        # KeyError would print the repr of a message that has several lines.
        return self.message


class NotFoundError(RegistryError, KeyError):
    """A name that no registry on the search path has.

    Attributes:
        key: The name as it was asked for.
        registry: The name of the registry, such as ``"model"``.
        scope: The scope where the search began.
        searched: The scopes searched, in order.
        near: Close names as ``(scope, name)``, the nearest first.
        problems: One line for each plugin that might own the name but cannot be used.
    """

    def __init__(
        self,
        message: str,
        *,
        key: str = "",
        registry: str = "",
        scope: str = "",
        searched: Sequence[str] = (),
        near: Sequence[tuple[str, str]] = (),
        problems: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        self.key = key
        self.registry = registry
        self.scope = scope
        self.searched = tuple(searched)
        self.near = tuple(near)
        self.problems = tuple(problems)


class UnknownScopeError(NotFoundError):
    """A scope that no plugin, package or registry declares.

    Attributes:
        known: The scopes that exist.
    """

    def __init__(
        self,
        message: str,
        *,
        scope: str,
        known: Sequence[str] = (),
        key: str = "",
        registry: str = "",
        near: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(message, key=key, registry=registry, scope=scope, near=near)
        self.known = tuple(known)


class UntrustedError(NotFoundError):
    """A dotted path to an object outside the trusted packages.

    Attributes:
        path: The dotted path.
        package: The package that is not trusted.
    """

    def __init__(
        self, message: str, *, path: str, package: str, registry: str = "", scope: str = ""
    ) -> None:
        super().__init__(message, key=path, registry=registry, scope=scope)
        self.path = path
        self.package = package


class NotDeliveredError(NotFoundError):
    """A name whose registration stands in a file, but which importing that file did not register.

    Attributes:
        file: The file.
        line: The line of the registration, 1-based.
    """

    def __init__(
        self, message: str, *, key: str, registry: str, scope: str, file: str, line: int
    ) -> None:
        super().__init__(message, key=key, registry=registry, scope=scope)
        self.file = file
        self.line = line


class DuplicateError(RegistryError, KeyError):
    """A name that the registry already has.

    Attributes:
        key: The name.
        registry: The name of the registry.
        scope: The scope of the registry.
        owners: Where the two registrations come from.
    """

    def __init__(
        self,
        message: str,
        *,
        key: str = "",
        registry: str = "",
        scope: str = "",
        owners: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        self.key = key
        self.registry = registry
        self.scope = scope
        self.owners = tuple(owners)


class DuplicateScopeError(RegistryError, ValueError, AssertionError):
    """Two children of one registry, or two plugins, that claim the same scope.

    Attributes:
        scope: The scope.
        owners: The distributions or modules that claim it.
    """

    def __init__(self, message: str, *, scope: str, owners: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.scope = scope
        self.owners = tuple(owners)


# MMEngine checks some arguments with ``assert``; code that catches AssertionError goes on working.
class ArgumentTypeError(RegistryError, TypeError, AssertionError):
    """An argument of a wrong type."""


class ArgumentValueError(RegistryError, ValueError, AssertionError):
    """An argument of the right type with a value that cannot be meant."""


class ConfigKeyError(RegistryError, KeyError):
    """A config without ``type``."""


class PluginError(RegistryError, KeyError, ImportError):
    """A plugin that owns what was asked for cannot be used.

    Attributes:
        scope: The scope of the plugin.
        state: ``"failed"``, ``"disabled"`` or ``"incompatible"``.
        reason: Why, in one line.
    """

    def __init__(self, message: str, *, scope: str, state: str, reason: str) -> None:
        super().__init__(message)
        self.scope = scope
        self.state = state
        self.reason = reason
