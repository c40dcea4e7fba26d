"""The scale subresource: replicas of a workload as an autoscaling/v1 Scale."""

from __future__ import annotations

from aiohttp import web

from . import errors, patches
from .calls import Call
from .errors import Cause
from .representations import answer_object, media_type, parse_json, read_body, read_object
from .resources import Resources
from .store import Object
from .write_options import write_options
from .writes import JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, Writes, method_not_supported


class Scales:
    def __init__(self, resources: Resources, writes: Writes) -> None:
        self._resources, self._writes = resources, writes

    async def answer(self, call: Call) -> web.StreamResponse:
        """GET, PUT or PATCH."""
        assert call.kind is not None
        method = call.request.method
        obj = self._resources.get(call.kind, call.namespace, call.name)
        scale = self._scale(obj)
        if method in ("GET", "HEAD"):
            return answer_object(scale)
        if method == "PUT":
            wanted = await read_object(call.request, "Scale")
        elif method == "PATCH":
            wanted = await patched(call, scale)
        else:
            raise method_not_supported(call)
        options = write_options(call, "UpdateOptions")
        version = (wanted.get("metadata") or {}).get("resourceVersion")
        if version not in (None, "", obj["metadata"]["resourceVersion"]):
            raise errors.conflict(call.kind.plural, call.kind.group, call.name)
        spec = wanted.get("spec") or {}
        replicas = (spec.get("replicas") or 0) if isinstance(spec, dict) else None
        if not isinstance(replicas, int) or isinstance(replicas, bool):
            raise errors.ApiError(400, 'Scale in version "v1" cannot be handled as a Scale: json: cannot unmarshal into Go struct field ScaleSpec.spec.replicas of type int32')
        if replicas < 0:
            raise errors.invalid("Scale", "autoscaling", call.name, [Cause("spec.replicas", f"Invalid value: {replicas}: must be greater than or equal to 0")])
        obj["spec"]["replicas"] = replicas
        return answer_object(self._scale(self._resources.update(call.kind, obj, dry_run=options.dry_run)))

    @staticmethod
    def _scale(obj: Object) -> Object:
        meta, status = obj["metadata"], obj.get("status") or {}
        selector = (obj.get("spec") or {}).get("selector") or {}
        terms = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
        for expression in selector.get("matchExpressions") or []:
            operator, key, values = expression["operator"], expression["key"], ",".join(expression.get("values") or [])
            terms.append({"In": f"{key} in ({values})", "NotIn": f"{key} notin ({values})", "Exists": key, "DoesNotExist": f"!{key}"}[operator])
        kept = {key: meta[key] for key in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp") if key in meta}
        return {"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": kept, "spec": {"replicas": (obj.get("spec") or {}).get("replicas", 0)},
                "status": {"replicas": status.get("replicas", 0), "selector": ",".join(terms)}}


async def patched(call: Call, obj: Object) -> Object:
    """What the request's patch makes of an object that is kept nowhere as it is shown."""
    type_ = media_type(call.request)
    functions = {JSON_PATCH: patches.json_patch, MERGE_PATCH: patches.merge_patch, STRATEGIC_PATCH: patches.merge_patch}
    if type_ not in functions:
        raise errors.ApiError(415, f"the body of the request was in an unknown format - accepted media types include: {', '.join(functions)}")
    try:
        patch = parse_json(await read_body(call.request))
    except ValueError as error:
        raise errors.ApiError(400, f"error decoding patch: {error}") from error
    return functions[type_](obj, patch)
