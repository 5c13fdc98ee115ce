"""Is an installed package ready to depend on? A small workflow with a team inside a team.

    orchestra run release_check "Is dist:httpx ready to depend on?"

    inspector ─┬─ licence ───────────────────────────────┐
               ├─ dependencies ──────────────────────────┼─ verdict
               └─ maintenance (a team of its own) ───────┘
                     support ────────┐
                     documentation ──┼─ maintainer
                     packaging ──────┘

Everything is read from what is installed here: the package's metadata, its list of files, and the packages that it
requires. No network and no model. What can't be seen from here (how fast issues are answered, who maintains it) is not
judged, and the verdict says so.
"""

import re
from importlib import metadata
from platform import python_version
from typing import Literal

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from graphs import _facts, _sources
from graphs._types import Frozen
from orchestra import Agent, Assignment, RequestError, Workflow, agent

EXAMPLE = "Is dist:httpx ready to depend on?"
GRAMMAR = f"Name one installed package as dist:NAME, for example: {EXAMPLE}"
Grade = Literal["good", "check", "stop"]
_ORDER: tuple[Grade, ...] = ("good", "check", "stop")


class Package(Frozen):
    """What the installation says about a package.

    Attributes:
        licence: the licence expression or field, else the licence classifiers.
        requires: requirements that hold in this environment, extras left out.
        readme: the long description.
        files: paths of the installed files.
    """

    name: str
    version: str
    licence: str = ""
    requires_python: str = ""
    requires: tuple[str, ...] = ()
    classifiers: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    readme: str = ""
    files: tuple[str, ...] = ()


class Opinion(Frozen):
    """One specialist's view, with the lines it rests on."""

    topic: str
    grade: Grade
    says: tuple[str, ...]


def check_request(request: str) -> None:
    """Refuse a request that doesn't name exactly one installed package.

    Raises:
        RequestError: says what is wrong, and what a request looks like.
    """
    name = package_name(request)
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        raise RequestError(f"dist:{name}: no package of this name is installed here. {GRAMMAR}") from None


def package_name(request: str) -> str:
    """The package that a request names.

    Raises:
        RequestError: it names none, or more than one.
    """
    names = list(dict.fromkeys(re.findall(r"\bdist:([A-Za-z0-9][\w.-]*\w|\w)", request)))
    if len(names) != 1:
        raise RequestError(f"The request must name one package; found {len(names)}. {GRAMMAR}")
    return names[0]


def read_package(name: str) -> Package:
    """Read an installed package's metadata and file list."""
    dist = metadata.distribution(name)
    info = dist.metadata
    classifiers = tuple(info.get_all("Classifier") or ())
    stated = [c.rsplit(" :: ", 1)[-1] for c in classifiers if c.startswith("License ::")]
    field = _sources.field(info, "License-Expression") or _sources.field(info, "License")
    return Package(
        name=_sources.field(info, "Name"),
        version=dist.version,
        licence=field if 0 < len(field) <= 100 else " AND ".join(stated),
        requires_python=_sources.field(info, "Requires-Python"),
        requires=tuple(r for r in dist.requires or () if _holds_here(r)),
        classifiers=classifiers,
        links=tuple(info.get_all("Project-URL") or ()),
        readme=_sources.field(info, "Description"),
        files=tuple(str(file) for file in dist.files or ()),
    )


def _holds_here(requirement: str) -> bool:
    try:
        marker = Requirement(requirement).marker
    except InvalidRequirement:
        return True
    return marker is None or marker.evaluate({"extra": ""})


def _worst(opinions: list[tuple[Grade, str]]) -> tuple[Grade, tuple[str, ...]]:
    """The strictest grade, and what was said, the strictest first."""
    ranked = sorted(opinions, key=lambda o: -_ORDER.index(o[0]))
    return ranked[0][0], tuple(text for _, text in ranked)


@agent(capabilities=["inspection"], timeout=30)
def inspector(task: Assignment) -> Package:
    """Read what is installed."""
    return read_package(package_name(task.request))


@agent(capabilities=["licence"], timeout=30)
def licence(package: Package) -> Opinion:
    """Judge the licence, and whether its text is shipped."""
    family = _facts.licence_family([package.licence])
    said: list[tuple[Grade, str]] = []
    if not package.licence:
        said.append(("stop", "No licence is stated: without one nobody may use it."))
    elif not family:
        said.append(("check", f"Licence “{package.licence}” is not one this check knows: read it."))
    else:
        grades: dict[str, Grade] = {"permissive": "good", "weak copyleft": "check", "strong copyleft": "stop"}
        advice = {
            "permissive": "",
            "weak copyleft": " Changes to its files must be published.",
            "strong copyleft": " It can reach what is distributed together with it: ask a lawyer first.",
        }
        said.append((grades[family], f"Licence “{package.licence}” is {family}.{advice[family]}"))
    shipped = [f for f in package.files if re.search(r"(?i)licen[cs]e|copying", f.rsplit("/", 1)[-1])]
    said.append(
        ("good", f"The licence text is shipped: {shipped[0]}.")
        if shipped
        else ("check", "No licence text is among the installed files.")
    )
    grade, texts = _worst(said)
    return Opinion(topic="Licence", grade=grade, says=texts)


@agent(capabilities=["dependencies"], timeout=30)
def dependencies(package: Package) -> Opinion:
    """Check that what it requires is here in a version it accepts, and under which licences."""
    said: list[tuple[Grade, str]] = [_requirement(text) for text in package.requires]
    if not said:
        said = [("good", "It requires no other package.")]
    grade, texts = _worst(said)
    return Opinion(topic="Dependencies", grade=grade, says=texts)


def _requirement(text: str) -> tuple[Grade, str]:
    try:
        wanted = Requirement(text)
        found = read_package(wanted.name)
    except InvalidRequirement:
        return "check", f"The requirement “{text}” can't be read."
    except metadata.PackageNotFoundError:
        return "stop", f"It requires {text}, which is not installed."
    if not wanted.specifier.contains(found.version, prereleases=True):
        return "stop", f"It requires {text}, but {found.version} is installed."
    family = _facts.licence_family([found.licence]) or "unknown"
    says = f"{found.name} {found.version} fits “{text}”; licence “{found.licence or 'not stated'}” ({family})."
    return ("good" if family == "permissive" else "check"), says


@agent(capabilities=["support"], timeout=30)
def support(package: Package) -> Opinion:
    """Compare the Python that runs here with what the package declares, and its declared maturity."""
    here = python_version()
    minor = ".".join(here.split(".")[:2])
    said: list[tuple[Grade, str]] = []
    try:
        fits = not package.requires_python or SpecifierSet(package.requires_python).contains(here, prereleases=True)
    except InvalidSpecifier:
        fits = False
    wanted = package.requires_python or "any Python"
    said.append(("good" if fits else "stop", f"It accepts “{wanted}”; Python {here} runs here."))
    listed = [c.rsplit(" :: ", 1)[-1] for c in package.classifiers if re.fullmatch(r"Programming .* :: 3\.\d+", c)]
    if listed and minor not in listed:
        said.append(("check", f"It lists Python {', '.join(listed)}, not {minor}."))
    status = next((c.rsplit(" :: ", 1)[-1] for c in package.classifiers if c.startswith("Development Status")), "")
    ripe = status[:1] in "56" if status else not package.version.startswith("0.")
    stated = (
        f"It declares the status “{status}”." if status else f"It declares no status; its version is {package.version}."
    )
    said.append(("good" if ripe else "stop" if status[:1] == "7" else "check", stated))
    grade, texts = _worst(said)
    return Opinion(topic="Support", grade=grade, says=texts)


@agent(capabilities=["documentation"], timeout=30)
def documentation(package: Package) -> Opinion:
    """Look for a description, examples, and links to documentation, source and changes."""
    words = len(package.readme.split())
    said: list[tuple[Grade, str]] = [("good" if words >= 100 else "check", f"Its description has {words} words.")]
    for what, labels in (
        ("documentation", ("doc", "home")),
        ("source code", ("source", "repo", "code", "home")),
        ("changes", ("change", "release", "history", "news")),
    ):
        link = _link(package, labels)
        said.append(("good", f"Link to its {what}: {link}.") if link else ("check", f"No link to its {what}."))
    grade, texts = _worst(said)
    return Opinion(topic="Documentation", grade=grade, says=texts)


def _link(package: Package, labels: tuple[str, ...]) -> str:
    """The link whose label begins with the first of these words that any label begins with."""
    links = [entry for word in labels for entry in package.links if entry.lower().startswith(word)]
    return links[0] if links else ""


@agent(capabilities=["packaging"], timeout=30)
def packaging(package: Package) -> Opinion:
    """Look at what was installed: type information, compiled parts."""
    typed = any(file.endswith("py.typed") for file in package.files)
    compiled = [file for file in package.files if file.endswith((".so", ".pyd", ".dylib"))]
    said: list[tuple[Grade, str]] = [
        ("good", "It ships type information (py.typed).") if typed else ("check", "It ships no type information."),
        ("check", f"It has {len(compiled)} compiled files: every platform needs a wheel or a compiler.")
        if compiled
        else ("good", "It is pure Python."),
    ]
    grade, texts = _worst(said)
    return Opinion(topic="Packaging", grade=grade, says=texts)


@agent(capabilities=["maintenance"], timeout=30)
def maintainer(opinions: list[Opinion]) -> Opinion:
    """Sum up how the package is kept."""
    grade, _ = _worst([(opinion.grade, opinion.topic) for opinion in opinions])
    says = tuple(f"{opinion.topic}: {text}" for opinion in opinions for text in opinion.says)
    return Opinion(topic="Maintenance", grade=grade, says=says)


@agent(capabilities=["verdict"], timeout=30)
def verdict(package: Package, opinions: list[Opinion]) -> str:
    """Say whether to depend on it, and what to look at first."""
    grade, _ = _worst([(opinion.grade, opinion.topic) for opinion in opinions])
    titles = {
        "good": "ready to depend on",
        "check": "usable; read the points to check first",
        "stop": "not ready: something stands in the way",
    }
    lines = [f"# {package.name} {package.version}: {titles[grade]}", "", "| Topic | Grade |", "|---|---|"]
    lines += [f"| {opinion.topic} | {opinion.grade} |" for opinion in opinions]
    for opinion in opinions:
        lines += ["", f"## {opinion.topic}: {opinion.grade}", "", *(f"- {text}" for text in opinion.says)]
    lines += ["", "Read from what is installed here. Not judged: security reports, response times, who maintains it."]
    return "\n".join(lines) + "\n"


maintenance = Workflow("maintenance", agents=[support, documentation, packaging, maintainer], inputs=[Package])
maintenance.add_edge(["support", "documentation", "packaging"], "maintainer")

flow = Workflow(
    "release_check",
    agents=[
        inspector,
        licence,
        dependencies,
        Agent("maintenance", run=maintenance, capabilities=["maintenance"], description="How the package is kept."),
        verdict,
    ],
    check=check_request,
    example=EXAMPLE,
)
for reader in ("licence", "dependencies", "maintenance"):
    flow.add_edge("inspector", reader)
flow.add_edge(["inspector", "licence", "dependencies", "maintenance"], "verdict")
