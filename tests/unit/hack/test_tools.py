"""hack/tools: building, caching and running."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from hack.tools import installer, schema_cache
from hack.tools.common import ToolError, cache_root, guarded, run
from hack.tools.golang import finished_folder
from hack.tools.pins import CUSTOM_RESOURCES, KUBERNETES_SCHEMAS, TOOLS, Tool


def test_the_cache_follows_the_xdg_rules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "scalable-fastapi-system"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_root() == Path.home() / ".cache" / "scalable-fastapi-system"


def test_a_folder_is_there_only_when_it_is_finished(tmp_path: Path) -> None:
    target = tmp_path / "v1"
    with pytest.raises(KeyboardInterrupt), finished_folder(target) as folder:
        (folder / "half").touch()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with finished_folder(target) as folder:
        (folder / "whole").touch()
    assert [path.name for path in target.iterdir()] == ["whole"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_failed_program_shows_the_end_of_its_output() -> None:
    script = "import sys; print('all is lost', file=sys.stderr); sys.exit(3)"
    with pytest.raises(ToolError, match=r"(?s)status 3.*all is lost"):
        run([sys.executable, "-c", script])


def test_a_missing_program_is_named() -> None:
    with pytest.raises(ToolError, match="no-such-program") as raised:
        run(["no-such-program"], hint="install it")
    assert raised.value.hint == "install it"


def test_an_error_ends_the_program_with_what_to_do_next(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> int:
        raise ToolError("the port is in use", "choose another one")

    with pytest.raises(SystemExit) as ended:
        guarded(main)
    assert ended.value.code == 1
    assert capsys.readouterr().err == "error: the port is in use\nnext:  choose another one\n"


def test_a_tool_is_installed_only_with_the_stamp_of_its_recipe(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    tool = Tool("thing", "example.org/thing", "1.0.0")
    (folder / "thing").touch()
    assert not installer.installed(tool, folder)
    stamp = installer.stamp(tool, folder)
    stamp.parent.mkdir()
    stamp.write_text(tool.recipe())
    assert installer.installed(tool, folder)
    assert not installer.installed(Tool("thing", "example.org/thing", "1.0.1"), folder)


def test_an_unknown_tool_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["install", "helm", "hammer"])
    with pytest.raises(ToolError, match="hammer") as raised:
        installer.main()
    assert "kubeconform" in raised.value.hint


def test_without_go_the_tools_to_install_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["install", "helm", "kind"])
    with pytest.raises(ToolError, match="helm kind"):
        installer.main()


def test_a_tool_learns_its_version() -> None:
    tool = Tool("thing", "example.org/thing", "1.2.3", "main.version")
    assert tool.link_flags().endswith("-X main.version=v1.2.3")
    assert "-X" not in Tool("thing", "example.org/thing", "1.2.3").link_flags()


def test_all_versions_are_exact() -> None:
    versions = [*KUBERNETES_SCHEMAS, *(t.version for t in TOOLS), *(c.version for c in CUSTOM_RESOURCES)]
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in versions)
    assert len({tool.name for tool in TOOLS}) == len(TOOLS)


def test_a_folder_of_schemas_is_known_by_its_recipe(tmp_path: Path) -> None:
    assert not schema_cache.up_to_date(tmp_path, "recipe")
    (tmp_path / schema_cache.RECIPE_FILE).write_text("recipe")
    assert schema_cache.up_to_date(tmp_path, "recipe")
    assert not schema_cache.up_to_date(tmp_path, "another")
    assert schema_cache.recipe("k8s 1") != schema_cache.recipe("k8s 2")


def test_manifests_are_read_although_they_hold_a_lone_equals_sign() -> None:
    documents = list(schema_cache.load_manifests("---\nenum: [=, '!=']\n---\n"))
    assert documents == [{"enum": ["=", "!="]}, {}]
