"""Every test of the rules runs twice: on the compiled kernels and on the NumPy code beside them."""

from collections.abc import Iterator

import pytest

from edgehold.core import kernels


@pytest.fixture(scope="module", params=["kernels", "numpy"], autouse=True)
def arithmetic(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "kernels" and kernels.loaded() is None:
        pytest.skip("the kernels are not compiled here: no C compiler when the package was installed")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "numpy":
            patch.setenv(kernels.SWITCH, "off")
        yield request.param
