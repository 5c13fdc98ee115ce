"""The release check: a team inside a team, on installed packages."""

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from graphs import release_check
from graphs.release_check import Opinion, Package
from orchestra import RequestError


def run(request):
    graph = release_check.flow.compile(checkpointer=InMemorySaver())
    return graph.invoke({"request": request}, {"configurable": {"thread_id": "t"}})


def test_a_real_package_is_judged_by_all():
    state = run("Is dist:httpx ready to depend on?")
    assert {name for name, result in state["results"].items() if result.ok} == {
        "inspector", "licence", "dependencies", "maintenance", "verdict",
    }  # fmt: skip
    inner = state["results"]["maintenance"].output
    assert isinstance(inner, Opinion)
    assert {said.partition(":")[0] for said in inner.says} == {"Support", "Documentation", "Packaging"}
    assert state["answer"].startswith("# httpx ")
    assert "fits “httpcore==1.*”" in state["answer"]


@pytest.mark.parametrize("request_text", ["Is it ready?", "dist:httpx dist:requests", "dist:no-such-package-here"])
def test_a_bad_request_is_refused(request_text):
    with pytest.raises(RequestError, match="Name one installed package"):
        run(request_text)


@pytest.mark.parametrize(
    ("licence", "grade"),
    [("MIT", "good"), ("MPL-2.0", "check"), ("GPL-3.0-only", "stop"), ("", "stop"), ("Custom", "check")],
)
def test_licences_are_graded(licence, grade):
    package = Package(name="x", version="1", licence=licence, files=("x.dist-info/LICENSE",))
    assert release_check.licence(package).grade == grade


def test_a_dependency_that_is_missing_or_too_old_stops():
    package = Package(name="x", version="1", requires=("httpx>=999", "no-such-package-here"))
    opinion = release_check.dependencies(package)
    assert opinion.grade == "stop"
    assert any("is installed" in said for said in opinion.says)
    assert any("not installed" in said for said in opinion.says)


def test_an_unsupported_python_stops():
    assert release_check.support(Package(name="x", version="1", requires_python="<3")).grade == "stop"
