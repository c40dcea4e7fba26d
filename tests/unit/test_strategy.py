"""A clone strategy is used only once CDI has taken it over."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from pytest_vmscale.cluster.access import ClusterError
from pytest_vmscale.procedures.strategy import wait_for_strategy
from tests.unit.scripted import serving

TAKEN_OVER = {"metadata": {"name": "rbd"}, "status": {"cloneStrategy": "copy"}}


def waited_for(wanted: str, tmp_path, cdis: web.Response) -> None:
    async def answer(request: web.Request) -> web.Response:
        return cdis if request.path.endswith("/cdis") else web.json_response(TAKEN_OVER)

    async def main() -> None:
        async with serving(answer, tmp_path) as cluster:
            await wait_for_strategy(cluster, "rbd", wanted)

    asyncio.run(main())


def test_a_strategy_is_taken_over_when_the_profiles_status_says_so(tmp_path):
    waited_for("copy", tmp_path, web.json_response({"items": []}))


def test_where_cdi_has_no_object_of_its_own_there_is_no_override(tmp_path):
    waited_for("copy", tmp_path, web.Response(status=404, text="404 page not found\n"))


def test_cdis_override_for_all_classes_is_named(tmp_path):
    override = {"metadata": {"name": "cdi-kubevirt-hyperconverged"}, "spec": {"cloneStrategyOverride": "snapshot"}}
    with pytest.raises(ClusterError, match="cdi-kubevirt-hyperconverged says spec.cloneStrategyOverride: snapshot"):
        waited_for("copy", tmp_path, web.json_response({"items": [override]}))


def test_a_strategy_that_nothing_takes_over_ends_in_an_error(tmp_path):
    with pytest.raises(ClusterError, match="rbd does not take over spec.cloneStrategy csi-clone: is CDI running"):
        waited_for("csi-clone", tmp_path, web.json_response({"items": []}))
