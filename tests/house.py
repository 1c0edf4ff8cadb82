"""The figures of the house: names, docstrings, files and imports, measured over the syntax trees.

Run `python tests/house.py` for the table, and `python tests/house.py src/apercu/images` for the
places in one folder that break a rule.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
FAMILIES = frozenset(
    {
        *(
            "attacks",
            "backdoors",
            "defences",
            "detectors",
            "filters",
            "formats",
            "heads",
            "methods",
        ),
        *("metrics", "objectives", "pretexts", "recipes", "sources", "unknown"),
    }
)
"""Folders with one file for each method, metric, format and the like, which grow with the offer."""
PACKAGES = (ROOT / "src" / "apercu", ROOT / "runtime" / "apercu_runtime")

VERBS = frozenset(
    re.findall(
        r"\w+",
        """
        accept accumulate acquire activate adapt add adjust adopt advance align allocate allow
        analyse append apply approximate arrange ask assemble assign attack attach attribute
        augment autocomplete average avoid await backpropagate balance batch begin bind blend
        block blur bound break broadcast build cache calibrate call can cancel cap capture cast
        catch center centre change check choose clamp classify clean clear climb clip close
        cluster coarsen collate collect color colour combine compare compile complete compose
        compress compute concatenate configure confirm connect consume contain continue convert
        convolve copy correct correlate count cover create crop cut debug decide declare decode
        decompress decrease deduplicate define delete deliver denoise denormalise deny derive
        descend describe deserialise detach detect determine diffuse digest dilate discard
        dispatch distil distort distribute dither divide download downsample draw drain drop dry
        dump duplicate echo embed emit empty enable encode end enlarge enqueue ensure enter
        enumerate equalise erase escape estimate evaluate evict exclude execute exit expand expect
        explain export expose extend extract fail feed fetch fill filter find finish fit fix
        flatten flip flush fold follow forget fork format forward free freeze gather generate get
        give go grow group guess guide halftone halve handle has hash hide hold ignore impute
        include increase indent index infer inflate init initialise inject insert inspect install
        interpolate invert is iterate join jump keep kill label launch lay learn limit link list
        listen load locate lock log look loop lower make map mark mask match measure merge migrate
        minimise mirror mix modify monitor move multiply name normalise note notify observe
        occlude offer open optimise order override overlay overlap pack pad paint pair parse pass
        patch pause perturb pick place plan plot point pool pop populate post predict prefer
        prefix prepare present preserve pretrain prevent print process produce project prompt
        propagate propose provide prune publish pull push put quantise query queue quote raise
        randomise rank reach read rearrange rebuild recalibrate receive recognise reconstruct
        record recover recurse redirect reduce refine refresh refuse register reinit reinitialise
        reject relax release reload remember remove rename render reopen reorder repeat replace
        reply report request require resample rescale reserve reset reshape resize resolve respond
        restart restore restrict resume retrieve retry return reverse rewrite rotate round route
        run sample save say scale scan schedule score seal search see seed select send separate
        serialise serve set settle setup shape share sharpen shift shorten show shrink shuffle
        shut sign silence simulate skip slice sleep slide smooth snap solve sort split spread
        squeeze stack stage standardise start step stop store stream strip structure submit
        subtract suggest sum summarise supervise suppress sweep swap switch synchronise take
        terminate test threshold throttle tighten tile time tokenise total trace track train
        transfer transform translate transpose traverse trigger trim truncate try tune turn undo
        unfreeze unify unpack unwrap update upload upsample upscale use validate verify view visit
        wait walk warm warn warp watch weigh widen wire wrap write yield zip zoom
        """,
    )
)
"""First words that make a function name a verb; `is_`, `has_`, `can_` make a predicate."""

ALSO_NOUNS = frozenset(
    re.findall(
        r"\w+",
        """
        attack batch blend block blur cache call cap center centre change classify clip cluster
        collate color colour count cover crop cut delay digest divide draw echo end estimate
        export extract feed fill filter fit flip fold follow format forward group guess guide
        handle hash hold increase index input jump label launch limit link list lock log look map
        mark mask match measure mirror mix move name need offer order output overlay pack paint
        pair patch pause picture place plan plot point pool prefix project prompt query queue
        quote rank record release repeat report request reserve rotate round route sample scale
        schedule score search separate shape share shift show sign skip slice sort split stack
        stage start state step stop store stream strip structure sum switch tile time total trace
        track transfer transform trigger turn use value view visit wait walk watch wire zip zoom
        """,
    )
)
"""Verbs that are nouns, too; alone, as a whole name, they are taken for the noun."""

IRREGULAR = frozenset(
    re.findall(
        r"\w+",
        """
        asked bent begun bound broken built chosen cut done drawn driven eaten fallen felt found
        frozen given gone grown heard held hidden kept known laid learnt led left lent lit lost
        made meant met paid put read said seen sent shown shrunk slept sold spent split spoken
        stolen stood sunk taken taught thought told torn undone won worn written
        """,
    )
) - {"cut", "put", "read", "split", "bound"}
"""Participles that do not end in -ed; words that are an imperative too are left out."""

NOT_PARTICIPLES = frozenset(
    {"bed", "embed", "exceed", "feed", "need", "red", "seed", "shed", "speed", "proceed"}
)
NOTHING = ("None", "Never", "NoReturn", "Iterator[None]", "AsyncIterator[None]")
PREPOSITIONS = re.compile(
    r"(?:of|for|from|in|on|by|to|with|as|at|after|before|under|behind)\b", re.I
)


@dataclass(frozen=True)
class Function:
    """One function or method of the package, and where it stands."""

    path: Path
    node: ast.FunctionDef | ast.AsyncFunctionDef

    @property
    def place(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.node.lineno} {self.node.name}"

    @property
    def first_word(self) -> str:
        return self.node.name.strip("_").split("_")[0].lower()

    @property
    def is_participle(self) -> bool:
        word = self.first_word
        if word in NOT_PARTICIPLES or word in VERBS:
            return False
        return word in IRREGULAR or (word.endswith("ed") and len(word) > 3)

    @property
    def begins_with_verb(self) -> bool:
        word = self.first_word
        return word in VERBS and (word not in ALSO_NOUNS or word != self.node.name.strip("_"))


def find_files(*folders: Path) -> list[Path]:
    """All Python files below the folders, or of the packages."""
    return sorted(path for folder in folders or PACKAGES for path in folder.rglob("*.py"))


def parse_file(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def find_functions(paths: list[Path]) -> Iterator[Function]:
    """All functions and methods but special methods, properties and `...` overloads."""
    for path in paths:
        for node in ast.walk(parse_file(path)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            is_property = any("property" in ast.unparse(d) for d in node.decorator_list)
            if not node.name.startswith("__") and not is_property:
                yield Function(path, node)


def find_duplicate_classes(paths: list[Path]) -> dict[str, list[str]]:
    """Public class names that one package defines more than once → the files that define them."""
    homes: dict[tuple[Path, str], list[str]] = defaultdict(list)
    for path in paths:
        package = next(one for one in PACKAGES if path.is_relative_to(one))
        for node in ast.walk(parse_file(path)):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[package, node.name].append(str(path.relative_to(ROOT)))
    return {name: files for (_, name), files in homes.items() if len(files) > 1}


def find_public_definitions(path: Path) -> Iterator[tuple[str, ast.AST]]:
    """Public functions, methods and classes of a file, with their names."""

    def walk(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, ast.AST]]:
        for node in body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                if node.name.startswith("_"):
                    continue
                yield prefix + node.name, node
                if isinstance(node, ast.ClassDef):
                    yield from walk(node.body, f"{prefix}{node.name}.")

    yield from walk(parse_file(path).body, "")


def find_sections(docstring: str) -> dict[str, list[str]]:
    """The sections of a docstring (`Args`, `Returns`, …) → their entries, lines joined."""
    sections: dict[str, list[str]] = {}
    entries: list[str] | None = None
    for line in docstring.split("\n"):
        if heading := re.fullmatch(
            r"(Args|Attributes|Returns|Raises|Example|Examples|Yields):", line
        ):
            entries = sections.setdefault(heading[1], [])
        elif entries is not None and line.startswith("    "):
            if line.startswith("     ") and entries:
                entries[-1] += " " + line.strip()
            else:
                entries.append(line.strip())
        elif line.strip():
            entries = None
    return sections


def find_argument_lines(path: Path) -> Iterator[tuple[str, str, str]]:
    """Lines of Args and Attributes sections: (place, name, what is said of it)."""
    for node in ast.walk(parse_file(path)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            sections = find_sections(ast.get_docstring(node) or "")
            for entry in [*sections.get("Args", []), *sections.get("Attributes", [])]:
                name, _, text = entry.partition(":")
                yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", name, text.strip()


def has_subject(text: str) -> bool:
    """Whether what is said of an argument names a thing, not only a relation to one."""
    return bool(text) and not PREPOSITIONS.match(text)


def find_weak_docstrings(path: Path) -> Iterator[str]:
    """Modules and public definitions without a docstring of four words that is a sentence."""
    for name, node in (("module", parse_file(path)), *find_public_definitions(path)):
        docstring = ast.get_docstring(node) or ""  # type: ignore[arg-type]
        first = docstring.split("\n\n")[0].strip()
        decorators = [ast.unparse(d) for d in getattr(node, "decorator_list", [])]
        is_override = not docstring and "." in name
        if is_override or any("overload" in one for one in decorators):
            continue
        if len(first.split()) < 4 or first[-1:] not in ".:?)`":
            yield f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)} {name}: {first!r}"


def find_missing_returns(path: Path) -> Iterator[str]:
    """Public functions that describe their arguments, return something, and do not say what."""
    for name, node in find_public_definitions(path):
        if isinstance(node, ast.ClassDef) or not hasattr(node, "returns"):
            continue
        sections = find_sections(ast.get_docstring(node) or "")  # type: ignore[arg-type]
        returned = ast.unparse(node.returns) if node.returns else "None"
        is_said = "Returns" in sections or "Yields" in sections
        if "Args" in sections and returned not in NOTHING and not is_said:
            yield f"{path.relative_to(ROOT)}:{node.lineno} {name}"


def count_import_lines(path: Path) -> int:
    """Lines that import statements take."""
    tree = parse_file(path)
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            lines.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def measure_import_depth() -> int:
    """The longest chain of modules of the package that import each other at module level."""
    source = ROOT / "src"
    modules = {}
    for path in find_files(PACKAGES[0]):
        parts = path.relative_to(source).with_suffix("").parts
        modules[".".join(parts).removesuffix(".__init__")] = path
    exports = {
        (name, alias.asname or alias.name): node.module
        for name, path in modules.items()
        if path.name == "__init__.py"
        for node in parse_file(path).body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    needs: dict[str, set[str]] = {}
    for name, path in modules.items():
        needs[name] = set()
        if path.name == "__init__.py":
            continue  # a name that a package passes on is counted where it is defined
        for node in parse_file(path).body:
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    home = exports.get((node.module, alias.name), node.module)
                    module = f"{node.module}.{alias.name}"
                    needs[name].add(module if module in modules else home)
        needs[name] &= set(modules)
    depths: dict[str, int] = {}

    def depth(name: str, above: tuple[str, ...] = ()) -> int:
        if name not in depths:
            below = [one for one in needs[name] if one not in above and one != name]
            depths[name] = 1 + max((depth(one, (*above, name)) for one in below), default=0)
        return depths[name]

    return max(map(depth, modules))


def measure_house() -> dict[str, float]:
    """Every figure of the house by its name."""
    files = find_files()
    functions = list(find_functions(files))
    lengths = [path.read_text(encoding="utf-8").count("\n") for path in files]
    arguments = [line for path in files for line in find_argument_lines(path)]
    duplicates = find_duplicate_classes(files)
    return {
        "functions": len(functions),
        "functions named by a participle, %": 100
        * sum(one.is_participle for one in functions)
        / len(functions),
        "functions that begin with a verb, %": 100
        * sum(one.begins_with_verb for one in functions)
        / len(functions),
        "public class names defined more than once": len(duplicates),
        "lines of Args without a subject, %": 100
        * sum(not has_subject(text) for _, _, text in arguments)
        / len(arguments),
        "weak public docstrings": sum(1 for path in files for _ in find_weak_docstrings(path)),
        "Args without Returns": sum(1 for path in files for _ in find_missing_returns(path)),
        "source files": len(files),
        "source files, without families": sum(path.parent.name not in FAMILIES for path in files),
        "median lines of a file": median(lengths),
        "longest file": max(lengths),
        "import lines, %": 100 * sum(map(count_import_lines, files)) / sum(lengths),
        "import depth": measure_import_depth(),
    }


def print_places(folders: list[Path]) -> None:
    """Everything in the folders that breaks a rule."""
    files = find_files(
        *(ROOT / folder if not folder.is_absolute() else folder for folder in folders)
    )
    functions = list(find_functions(files))
    for one in functions:
        if one.is_participle:
            print("participle ", one.place)
    for one in functions:
        if not one.begins_with_verb and not one.is_participle:
            print("no verb    ", one.place)
    own = {str(path.relative_to(ROOT)) for path in files}
    for name, homes in find_duplicate_classes(find_files()).items():
        if own & set(homes):
            print("class twice", name, *homes)
    for path in files:
        for offence, name, text in find_argument_lines(path):
            if not has_subject(text):
                print("no subject ", f"{offence}({name}: {text})")
        for offence in find_weak_docstrings(path):
            print("docstring  ", offence)
        for offence in find_missing_returns(path):
            print("no Returns ", offence)
    verbs = sum(one.begins_with_verb for one in functions)
    participles = sum(one.is_participle for one in functions)
    count = max(1, len(functions))
    print(
        f"{len(files)} files, {len(functions)} functions: {100 * verbs / count:.0f} % begin with "
        f"a verb, {100 * participles / count:.1f} % are participles"
    )


def main() -> None:
    """Print the table, or the places of the folders that are named."""
    if folders := [Path(name) for name in sys.argv[1:]]:
        print_places(folders)
        return
    for name, value in measure_house().items():
        print(f"{name:45} {value:8.1f}")


if __name__ == "__main__":
    main()
