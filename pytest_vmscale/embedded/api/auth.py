"""Who is asking, and may they: bearer tokens, and RBAC from the Role and binding objects that are stored."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson

from . import errors
from .resources import Resources
from .store import Change, Object

MASTERS, AUTHENTICATED, UNAUTHENTICATED = "system:masters", "system:authenticated", "system:unauthenticated"
ISSUER = "https://kubernetes.default.svc"
PUBLIC_PATHS = ("/healthz", "/livez", "/readyz", "/version")
DISCOVERY_PATHS = ("/api", "/apis", "/openapi", *PUBLIC_PATHS)


@dataclass(frozen=True)
class User:
    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: dict[str, list[str]] = field(default_factory=dict, hash=False, compare=False)

    @property
    def master(self) -> bool:
        return MASTERS in self.groups

    def to_dict(self) -> Object:
        found: Object = {"username": self.name, "uid": self.uid, "groups": list(self.groups), "extra": self.extra}
        return {key: value for key, value in found.items() if value}


ANONYMOUS = User("system:anonymous", (UNAUTHENTICATED,))


@dataclass(frozen=True)
class Action:
    """What a request would do. `path` is set for what is no resource."""

    verb: str
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""

    @property
    def full_resource(self) -> str:
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource


class Authenticator:
    """Bearer tokens: those given at the start, and those it signs for ServiceAccounts."""

    def __init__(self, resources: Resources, tokens: dict[str, User]) -> None:
        self._resources = resources
        self._tokens = dict(tokens)
        self._secret = secrets.token_bytes(32)

    def authenticate(self, authorization: str | None) -> User:
        """ApiError 401 for a token that is not known; no token at all is system:anonymous."""
        if not authorization:
            return ANONYMOUS
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return ANONYMOUS
        user = self._tokens.get(token.strip()) or self.service_account(token.strip())
        if user is None:
            raise errors.ApiError(401, "Unauthorized")
        return user

    def review(self, token: str) -> User | None:
        return self._tokens.get(token) or self.service_account(token)

    def sign(self, account: Object, seconds: int, audiences: list[str]) -> tuple[str, float]:
        """A token for this ServiceAccount and the Unix time at which it ends. Wall time: the client's clock counts it."""
        now = int(time.time())
        meta = account["metadata"]
        claims = {"aud": audiences or [ISSUER], "exp": now + seconds, "iat": now, "nbf": now, "iss": ISSUER, "jti": secrets.token_hex(16),
                  "sub": f"system:serviceaccount:{meta['namespace']}:{meta['name']}",
                  "kubernetes.io": {"namespace": meta["namespace"], "serviceaccount": {"name": meta["name"], "uid": meta["uid"]}}}
        text = _encode(b'{"alg":"HS256","typ":"JWT"}') + "." + _encode(orjson.dumps(claims))
        return f"{text}.{_encode(self._signature(text))}", now + seconds

    def service_account(self, token: str) -> User | None:
        text, _, signature = token.rpartition(".")
        if text.count(".") != 1:
            return None
        try:
            if not hmac.compare_digest(_decode(signature), self._signature(text)):
                return None
            claims: dict[str, Any] = orjson.loads(_decode(text.partition(".")[2]))
        except ValueError:
            return None
        bound = claims["kubernetes.io"]
        namespace, name, uid = bound["namespace"], bound["serviceaccount"]["name"], bound["serviceaccount"]["uid"]
        account = self._resources.find(self._resources.kind("serviceaccounts"), namespace, name)
        if claims["exp"] < time.time() or account is None or account["metadata"]["uid"] != uid:
            return None
        return service_account_user(namespace, name, uid)

    def _signature(self, text: str) -> bytes:
        return hmac.digest(self._secret, text.encode(), hashlib.sha256)


def service_account_user(namespace: str, name: str, uid: str = "") -> User:
    return User(f"system:serviceaccount:{namespace}:{name}", ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", AUTHENTICATED), uid)


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Authorizer:
    """RBAC. Rules are looked up per user and kept until a role or binding changes."""

    KINDS = tuple(f"{plural}.rbac.authorization.k8s.io" for plural in ("roles", "clusterroles", "rolebindings", "clusterrolebindings"))

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._roles, self._cluster_roles, self._bindings, self._cluster_bindings = (resources.kind(name) for name in self.KINDS)
        self._rules: dict[User, list[tuple[str, Object]]] = {}
        for kind in (self._roles, self._cluster_roles, self._bindings, self._cluster_bindings):
            resources.watch(kind, self._forget)

    def _forget(self, change: Change) -> None:
        self._rules.clear()

    def allows(self, user: User, action: Action) -> bool:
        if user.master:
            return True
        if action.path:
            if action.verb in ("get", "head") and _under(action.path, DISCOVERY_PATHS if AUTHENTICATED in user.groups else PUBLIC_PATHS):
                return True
        elif action.group in ("authorization.k8s.io", "authentication.k8s.io") and action.resource.startswith("self") and AUTHENTICATED in user.groups:
            return True
        return any((not namespace or namespace == action.namespace) and _permits(rule, action) for namespace, rule in self.rules(user))

    def check(self, user: User, action: Action) -> None:
        """ApiError 403, worded as the real server's."""
        if not self.allows(user, action):
            raise forbidden(user, action)

    def rules(self, user: User) -> list[tuple[str, Object]]:
        """The rules that bind this user, each with the namespace it holds in ("" for all)."""
        if user not in self._rules:
            found: list[tuple[str, Object]] = []
            for binding in self._resources.list(self._cluster_bindings):
                found += [("", rule) for rule in self._bound(user, binding, "")]
            for binding in self._resources.list(self._bindings):
                namespace = binding["metadata"]["namespace"]
                found += [(namespace, rule) for rule in self._bound(user, binding, namespace)]
            if len(self._rules) > 1000:
                self._rules.clear()
            self._rules[user] = found
        return self._rules[user]

    def who_can(self, action: Action) -> tuple[list[str], list[str]]:
        """The users and the groups that bindings let do this, each sorted."""
        users: set[str] = set()
        groups: set[str] = set()
        for kind, place in ((self._cluster_bindings, ""), (self._bindings, action.namespace)):
            for binding in self._resources.list(kind, place) if place or kind is self._cluster_bindings else ():
                if any(_permits(rule, action) for rule in self._granted(binding, place)):
                    for subject in binding.get("subjects") or []:
                        name = subject.get("name", "")
                        if subject.get("kind") == "ServiceAccount":
                            name = f"system:serviceaccount:{subject.get('namespace') or place}:{name}"
                        (groups if subject.get("kind") == "Group" else users).add(name)
        return sorted(users), sorted(groups)

    def _bound(self, user: User, binding: Object, namespace: str) -> Iterable[Object]:
        if not any(_is(user, subject, namespace) for subject in binding.get("subjects") or []):
            return []
        return self._granted(binding, namespace)

    def _granted(self, binding: Object, namespace: str) -> list[Object]:
        """The rules of a binding's role."""
        reference = binding.get("roleRef") or {}
        if reference.get("kind") == "ClusterRole":
            role = self._resources.find(self._cluster_roles, "", reference.get("name", ""))
        else:
            role = self._resources.find(self._roles, namespace, reference.get("name", ""))
        return (role or {}).get("rules") or [] if role is None or not role.get("aggregationRule") else self._aggregated(role)

    def _aggregated(self, role: Object) -> list[Object]:
        """A ClusterRole made of others: those whose labels its selectors match."""
        rules = list(role.get("rules") or [])
        selectors = [(selector.get("matchLabels") or {}) for selector in role["aggregationRule"].get("clusterRoleSelectors") or []]
        for other in self._resources.list(self._cluster_roles):
            labels = other["metadata"].get("labels") or {}
            if any(all(labels.get(key) == value for key, value in wanted.items()) for wanted in selectors):
                rules += [rule for rule in other.get("rules") or [] if rule not in rules]
        return rules


def _under(path: str, allowed: tuple[str, ...]) -> bool:
    return any(path == start or path.startswith(start + "/") for start in allowed)


def _is(user: User, subject: Object, namespace: str) -> bool:
    kind, name = subject.get("kind"), subject.get("name", "")
    if kind == "ServiceAccount":
        return user.name == f"system:serviceaccount:{subject.get('namespace') or namespace}:{name}"
    return user.name == name if kind == "User" else kind == "Group" and name in user.groups


def _permits(rule: Object, action: Action) -> bool:
    verbs = rule.get("verbs") or []
    if "*" not in verbs and action.verb not in verbs:
        return False
    if action.path:
        return any(path in ("*", action.path) or (path.endswith("*") and action.path.startswith(path[:-1])) for path in rule.get("nonResourceURLs") or [])
    groups, resources, names = rule.get("apiGroups") or [], rule.get("resources") or [], rule.get("resourceNames") or []
    wanted = {"*", action.full_resource} | ({f"*/{action.subresource}"} if action.subresource else set())
    return ("*" in groups or action.group in groups) and bool(wanted & set(resources)) and (not names or action.name in names)


def forbidden(user: User, action: Action) -> errors.ApiError:
    if action.path:
        return errors.ApiError(403, f'forbidden: User "{user.name}" cannot {action.verb} path "{action.path}"', details={})
    scope = f'in the namespace "{action.namespace}"' if action.namespace else "at the cluster scope"
    what = errors.qualified(action.resource, action.group)
    subject = f'{what} "{action.name}" is forbidden' if action.name else f"{what} is forbidden"
    return errors.ApiError(403, f'{subject}: User "{user.name}" cannot {action.verb} resource "{action.full_resource}" in API group "{action.group}" {scope}',
                           details=errors.details(action.group, action.resource, action.name))
