"""Reports of studies are made without their images, but where a module is marked `drawn`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.pipeline.outcome import leave_undrawn


@pytest.fixture(scope="module", autouse=True)
def _undrawn(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if request.node.get_closest_marker("drawn") is None:
            leave_undrawn(patch.setattr)
        yield
