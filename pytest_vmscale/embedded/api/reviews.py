"""Reviews: questions about access and identity that are asked by POST, and kept nowhere."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from . import errors
from .auth import AUTHENTICATED, Action, Authenticator, Authorizer, User
from .calls import Call
from .errors import Cause
from .representations import answer_object, read_object
from .resources import Resources
from .store import Object

AUTHORIZATION, AUTHENTICATION = "authorization.k8s.io", "authentication.k8s.io"
OPENSHIFT_AUTHORIZATION = "authorization.openshift.io"
MYSELF = "~"  # the name of the user who asks
TOKEN_LEAST_SECONDS, TOKEN_MOST_SECONDS, TOKEN_DEFAULT_SECONDS = 600, 2**32, 3600


class Reviews:
    def __init__(self, resources: Resources, authenticator: Authenticator, authorizer: Authorizer) -> None:
        self._resources, self._authenticator, self._authorizer = resources, authenticator, authorizer
        self._asked: dict[tuple[str, str], tuple[str, bool, Callable[[Object, User, str], Object]]] = {
            (AUTHORIZATION, "selfsubjectaccessreviews"): ("SelfSubjectAccessReview", False, self._self_access),
            (AUTHORIZATION, "selfsubjectrulesreviews"): ("SelfSubjectRulesReview", False, self._self_rules),
            (AUTHORIZATION, "subjectaccessreviews"): ("SubjectAccessReview", False, self._access),
            (AUTHORIZATION, "localsubjectaccessreviews"): ("LocalSubjectAccessReview", True, self._access),
            (AUTHENTICATION, "tokenreviews"): ("TokenReview", False, self._token),
            (AUTHENTICATION, "selfsubjectreviews"): ("SelfSubjectReview", False, self._self),
            (OPENSHIFT_AUTHORIZATION, "resourceaccessreviews"): ("ResourceAccessReview", False, self._who_can),
            (OPENSHIFT_AUTHORIZATION, "localresourceaccessreviews"): ("LocalResourceAccessReview", True, self._who_can),
            (OPENSHIFT_AUTHORIZATION, "subjectaccessreviews"): ("SubjectAccessReview", False, self._can_who),
            (OPENSHIFT_AUTHORIZATION, "localsubjectaccessreviews"): ("LocalSubjectAccessReview", True, self._can_who),
        }

    def discovery(self) -> dict[tuple[str, str], list[Object]]:
        found: dict[tuple[str, str], list[Object]] = {}
        for (group, plural), (kind, namespaced, _) in self._asked.items():
            found.setdefault((group, "v1"), []).append({"name": plural, "singularName": kind.lower(), "namespaced": namespaced, "kind": kind, "verbs": ["create"]})
        return found

    def serves(self, call: Call) -> bool:
        return call.version == "v1" and (call.group, call.plural) in self._asked and not call.name

    async def answer(self, call: Call) -> web.StreamResponse:
        kind, _, review = self._asked[call.group, call.plural]
        if call.request.method != "POST":
            raise errors.ApiError(405, "the server does not allow this method on the requested resource", details={})
        obj = await read_object(call.request, kind)
        if obj.get("kind", kind) != kind:
            raise errors.ApiError(400, f'{obj["kind"]} in version "v1" cannot be handled as a {kind}: converting ({obj["kind"]}) to ({kind}): unknown conversion')
        if call.group == OPENSHIFT_AUTHORIZATION:  # what is asked has no spec around it, nor the answer a status
            return answer_object(review({**obj, "namespace": call.namespace}, call.user, kind), 201)
        spec = obj.get("spec") or {}
        if not isinstance(spec, dict):
            raise errors.ApiError(400, f'{kind} in version "v1" cannot be handled as a {kind}: json: cannot unmarshal into Go struct field {kind}.spec')
        status = review(spec, call.user, kind)
        meta = obj.get("metadata") if isinstance(obj.get("metadata"), dict) else {}
        result: Object = {"kind": kind, "apiVersion": f"{call.group}/v1", "metadata": meta or {}}
        if kind != "SelfSubjectReview":
            result["spec"] = spec
        return answer_object({**result, "status": status}, 201)

    def _self_access(self, spec: Object, user: User, kind: str) -> Object:
        return self._decision(user, spec, kind)

    def _access(self, spec: Object, user: User, kind: str) -> Object:
        groups = spec.get("groups") or []
        if not spec.get("user") and not groups:
            raise errors.invalid(kind, AUTHORIZATION, "", [Cause("spec.user", 'Invalid value: "": at least one of user or group must be specified')])
        if not isinstance(groups, list) or not all(isinstance(group, str) for group in groups):
            raise errors.ApiError(400, f'{kind} in version "v1" cannot be handled as a {kind}: json: cannot unmarshal spec.groups')
        return self._decision(User(str(spec.get("user") or ""), tuple(groups)), spec, kind)

    def _decision(self, user: User, spec: Object, kind: str) -> Object:
        resource: Any = spec.get("resourceAttributes")
        path: Any = spec.get("nonResourceAttributes")
        if bool(resource) == bool(path) or not isinstance(resource or path, dict):
            why = "exactly one of nonResourceAttributes or resourceAttributes must be specified" if not resource else "cannot be specified in combination with resourceAttributes"
            raise errors.invalid(kind, AUTHORIZATION, "", [Cause("spec.resourceAttributes" if not resource else "spec.nonResourceAttributes", f"Invalid value: null: {why}")])
        if resource:
            action = Action(*(str(resource.get(key) or "") for key in ("verb", "group", "resource", "subresource", "namespace", "name")))
        else:
            action = Action(str(path.get("verb") or ""), path=str(path.get("path") or ""))
        return {"allowed": True} if self._authorizer.allows(user, action) else {"allowed": False}

    def _self_rules(self, spec: Object, user: User, kind: str) -> Object:
        namespace = spec.get("namespace")
        if not namespace:
            raise errors.ApiError(400, "no namespace on request")
        rules = [rule for scope, rule in self._authorizer.rules(user) if scope in ("", namespace)]
        if user.master:
            rules = [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}, {"verbs": ["*"], "nonResourceURLs": ["*"]}, *rules]
        resource = [{key: rule[key] for key in ("verbs", "apiGroups", "resources", "resourceNames") if rule.get(key)} for rule in rules if rule.get("resources")]
        other = [{key: rule[key] for key in ("verbs", "nonResourceURLs")} for rule in rules if rule.get("nonResourceURLs")]
        return {"resourceRules": resource, "nonResourceRules": other, "incomplete": False}

    def _token(self, spec: Object, user: User, kind: str) -> Object:
        token = spec.get("token")
        if not token:
            raise errors.ApiError(400, "token is required for TokenReview in authentication")
        found = self._authenticator.review(str(token))
        if found is None:
            return {"user": {}, "error": "[invalid bearer token, token lookup failed]"}
        return {"authenticated": True, "user": found.to_dict(), "audiences": spec.get("audiences") or ["https://kubernetes.default.svc"]}

    def _self(self, spec: Object, user: User, kind: str) -> Object:
        return {"userInfo": user.to_dict()}

    def _who_can(self, asked: Object, user: User, kind: str) -> Object:
        """What oc policy who-can asks."""
        action = _openshift_action(asked, kind)
        users, groups = self._authorizer.who_can(action)
        return {"kind": "ResourceAccessReviewResponse", "apiVersion": f"{OPENSHIFT_AUTHORIZATION}/v1", "metadata": {}, "namespace": action.namespace,
                "users": users, "groups": groups, "evalutionError": ""}

    def _can_who(self, asked: Object, user: User, kind: str) -> Object:
        """Whether the one who asks may; or the user that is named, which is told only to those who may ask about others."""
        action, groups = _openshift_action(asked, kind), tuple(asked.get("groups") or ())
        subject = user
        if asked.get("user") or groups:
            subject = User(str(asked.get("user") or ""), groups)
            self._authorizer.check(user, Action("create", AUTHORIZATION, "subjectaccessreviews"))
        return {"kind": "SubjectAccessReviewResponse", "apiVersion": f"{OPENSHIFT_AUTHORIZATION}/v1", "metadata": {}, "namespace": action.namespace,
                "allowed": self._authorizer.allows(subject, action)}

    async def request_token(self, request: web.Request, namespace: str, name: str) -> web.StreamResponse:
        """POST serviceaccounts/NAME/token."""
        obj = await read_object(request, "TokenRequest")
        account = self._resources.get(self._resources.kind("serviceaccounts"), namespace, name)
        spec = obj.get("spec") if isinstance(obj.get("spec"), dict) else {}
        assert spec is not None
        seconds = spec.get("expirationSeconds") or TOKEN_DEFAULT_SECONDS
        if not isinstance(seconds, int) or not TOKEN_LEAST_SECONDS <= seconds <= TOKEN_MOST_SECONDS:
            why = "may not specify a duration less than 10 minutes" if isinstance(seconds, int) and seconds < TOKEN_LEAST_SECONDS else "may not specify a duration larger than 2^32 seconds"
            raise errors.invalid("TokenRequest", AUTHENTICATION, "", [Cause("spec.expirationSeconds", f"Invalid value: {seconds}: {why}")])
        token, expires = self._authenticator.sign(account, seconds, list(spec.get("audiences") or []))
        stamp = datetime.fromtimestamp(expires, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return answer_object({"kind": "TokenRequest", "apiVersion": f"{AUTHENTICATION}/v1", "metadata": {"name": name, "namespace": namespace, "creationTimestamp": self._resources.clock.timestamp()},
                              "spec": {"audiences": spec.get("audiences") or ["https://kubernetes.default.svc"], "expirationSeconds": seconds, "boundObjectRef": None},
                              "status": {"token": token, "expirationTimestamp": stamp}}, 201)


def myself(user: User) -> Object:
    """What `users/~` of user.openshift.io answers: who is asking, whether or not there is a User object."""
    return {"kind": "User", "apiVersion": "user.openshift.io/v1", "metadata": {"name": user.name, "creationTimestamp": None},
            "identities": None, "groups": list(user.groups)}


def authenticated(user: User) -> bool:
    return AUTHENTICATED in user.groups or user.master


def _openshift_action(asked: Object, kind: str) -> Action:
    """What a review of authorization.openshift.io is about; 422 if that is not said."""
    verb, group, resource, name = (str(asked.get(key) or "") for key in ("verb", "resourceAPIGroup", "resource", "resourceName"))
    if not verb or not resource:
        raise errors.invalid(kind, OPENSHIFT_AUTHORIZATION, "", [Cause("resource" if verb else "verb", "Required value", "FieldValueRequired")])
    resource, _, subresource = resource.partition("/")
    return Action(verb, group, resource, subresource, asked["namespace"], name)
