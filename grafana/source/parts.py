"""What all dashboards are made of: variables, queries, and each kind of panel in the one way that it is used here.

Every query is limited to `$namespace` and aggregates over what it does not show, so that it is right with one pod and with
fifty. Colours, units and legends are decided here, so that a panel states only what it is about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as dashboards
from grafana_foundation_sdk.builders import heatmap, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.models import common, units
from grafana_foundation_sdk.models import heatmap as heatmap_models
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColorModeId,
    FieldColorSeriesByMode,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
    VariableHide,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
TAGS = ["scalable-fastapi-system"]
ROUTES = 'handler!~"/health(/live|/ready)?|/metrics"'
"""Requests that somebody made, in place of probes and scrapes."""

GREEN, YELLOW, RED, BLUE = "green", "#EAB839", "red", "blue"

Panel = TypeVar("Panel", bound=Any)


@dataclass(frozen=True)
class Query:
    """One PromQL query. `legend` is Grafana's template over its labels."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Steps:
    """Colours of a value from limits on: `Steps(GREEN, (0.8, YELLOW), (0.95, RED))`."""

    base: str
    limits: tuple[tuple[float, str], ...] = field(default=())

    @classmethod
    def of(cls, base: str, *limits: tuple[float, str]) -> Steps:
        return cls(base, limits)

    def build(self) -> dashboards.ThresholdsConfig:
        steps = [Threshold(value=None, color=self.base)]
        steps += [Threshold(value=value, color=color) for value, color in self.limits]
        return dashboards.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


NO_STEPS = Steps(BLUE)


def selector(*parts: str) -> str:
    """Label matchers within `$namespace`."""
    return "{" + ",".join(('namespace="$namespace"', *parts)) + "}"


def new_dashboard(uid: str, title: str, description: str) -> dashboards.Dashboard:
    """An empty dashboard with the variables and links that all have. The uid is for ever: links point to it."""
    return (
        dashboards.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(TAGS)
        .timezone("browser")
        .editable()
        .time("now-6h", "now")
        .refresh("30s")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboards.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(
            variable("namespace", "Namespace", "label_values(service_build_info, namespace)", is_single=True)
        )
        .link(
            dashboards.DashboardLink("Dashboards of this system")
            .type(DashboardLinkType.DASHBOARDS)
            .tags(TAGS)
            .as_dropdown(True)
            .include_vars(True)
            .keep_time(True)
        )
    )


def variable(name: str, label: str, query: str, *, is_single: bool = False) -> dashboards.QueryVariable:
    """A choice made from label values; any number of them, or all, unless `is_single`."""
    made = (
        dashboards.QueryVariable(name)
        .label(label)
        .hide(VariableHide.DONT_HIDE)
        .datasource(SOURCE)
        .query({"query": query, "refId": "A"})
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
    )
    return made if is_single else made.multi(True).include_all(True).all_value(".*")


def to_dashboard(title: str, uid: str, **variables: str) -> dashboards.DashboardLink:
    """A link to another dashboard of ours, at the same time and namespace."""
    query = "".join(f"&var-{name}={value}" for name, value in variables.items())
    return dashboards.DashboardLink(title).url(
        f"/d/{uid}?var-datasource=${{datasource}}&var-namespace=${{namespace}}{query}&${{__url_time_range}}"
    )


def lines(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    steps: Steps | None = None,
    is_stacked: bool = False,
    is_from_zero: bool = True,
    most: float | None = None,
    decimals: int | None = None,
    links: Sequence[dashboards.DashboardLink] = (),
    span: int = 12,
    height: int = 8,
) -> timeseries.Panel:
    """Values over time. `steps` are drawn as limits across the panel."""
    panel = (
        timeseries.Panel()
        .line_width(1)
        .fill_opacity(30 if is_stacked else 8)
        .show_points(common.VisibilityMode.NEVER)
        .tooltip(
            common_builders.VizTooltipOptions()
            .mode(common.TooltipDisplayMode.MULTI)
            .sort(common.SortOrder.DESCENDING)
        )
        .legend(
            common_builders.VizLegendOptions()
            .display_mode(common.LegendDisplayMode.TABLE)
            .placement(common.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["lastNotNull", "max"])
        )
        .color_scheme(
            dashboards.FieldColor()
            .mode(FieldColorModeId.PALETTE_CLASSIC)
            .series_by(FieldColorSeriesByMode.LAST)
        )
    )
    if is_stacked:
        panel.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL))
    if is_from_zero:
        panel.min(0)
    if most is not None:
        panel.max(most)
    if decimals is not None:
        panel.decimals(decimals)
    if steps is not None:
        panel.thresholds(steps.build())
        panel.thresholds_style(
            common_builders.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED)
        )
    if links:
        panel.data_links(list(links))
    return _finish(panel, title, description, unit, queries, span=span, height=height)


def number(
    title: str,
    description: str,
    unit: str,
    query: Query,
    *,
    steps: Steps = NO_STEPS,
    decimals: int | None = None,
    no_value: str | None = None,
    links: Sequence[dashboards.DashboardLink] = (),
    span: int = 4,
    height: int = 4,
) -> stat.Panel:
    """The newest value, coloured, over its own history."""
    panel = (
        stat.Panel()
        .reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .graph_mode(common.BigValueGraphMode.AREA)
        .color_mode(common.BigValueColorMode.VALUE)
        .thresholds(steps.build())
        .color_scheme(dashboards.FieldColor().mode(FieldColorModeId.THRESHOLDS))
    )
    if decimals is not None:
        panel.decimals(decimals)
    if no_value is not None:
        panel.no_value(no_value)
    if links:
        panel.data_links(list(links))
    return _finish(panel, title, description, unit, (query,), span=span, height=height)


def heat(title: str, description: str, query: Query, *, span: int = 12, height: int = 9) -> heatmap.Panel:
    """How a histogram's observations, in seconds, spread over its buckets. The query gives counts by `le`."""
    panel = (
        heatmap.Panel()
        .calculate(False)
        .color(
            heatmap.HeatmapColorOptions()
            .mode(heatmap_models.HeatmapColorMode.SCHEME)
            .scheme("Spectral")
            .reverse(True)
            .exponent(0.5)
            .steps(64)
        )
        .y_axis(heatmap.YAxisConfig().unit(units.Seconds))
        .cell_gap(1)
        .show_legend()
    )
    panel = _place(panel, title, description, span=span, height=height)
    panel.with_target(_target(query, "A").format(PromQueryFormat.HEATMAP).legend_format("{{le}}"))
    return panel


def states(
    title: str,
    description: str,
    *queries: Query,
    names: dict[float, tuple[str, str]],
    span: int = 12,
    height: int = 6,
) -> statetimeline.Panel:
    """In which of some named states each thing was. `names`: text and colour by value."""
    options = {
        f"{value:g}": ValueMappingResult(text=text, color=color, index=index)
        for index, (value, (text, color)) in enumerate(names.items())
    }
    panel = (
        statetimeline.Panel()
        .mappings([ValueMap(options=options)])
        .show_value(common.VisibilityMode.AUTO)
        .merge_values(True)
        .row_height(0.8)
        .legend(
            common_builders.VizLegendOptions()
            .show_legend(False)
            .display_mode(common.LegendDisplayMode.HIDDEN)
            .placement(common.LegendPlacement.BOTTOM)
        )
    )
    return _finish(panel, title, description, units.NoUnit, queries, span=span, height=height)


@dataclass(frozen=True)
class Column:
    """One figure of a table: the query gives one value for each row."""

    name: str
    unit: str
    expr: str
    decimals: int = 2
    steps: Steps | None = None


def grid(
    title: str,
    description: str,
    keys: dict[str, str],
    *columns: Column,
    link: tuple[str, dashboards.DashboardLink] | None = None,
    span: int = 24,
    height: int = 9,
) -> table.Panel:
    """Figures side by side: a row for each combination of `keys` (label → heading). `link`: from a heading's cells."""
    panel = (
        table.Panel()
        .show_header(True)
        .filterable(True)
        .cell_height(common.TableCellHeight.SM)
        .sort_by([common_builders.TableSortByFieldState().display_name(columns[0].name).desc(True)])
    )
    for column, ref_id in zip(columns, "ABCDEFGH", strict=False):
        panel.with_target(_target(Query(column.expr), ref_id).instant().format(PromQueryFormat.TABLE))
        properties = [
            DynamicConfigValue(id_val="unit", value=column.unit),
            DynamicConfigValue(id_val="decimals", value=column.decimals),
        ]
        if column.steps is not None:
            properties += [
                DynamicConfigValue(id_val="thresholds", value=column.steps.build().build().to_json()),
                DynamicConfigValue(id_val="custom.cellOptions", value={"type": "color-text"}),
            ]
        panel.override_by_name(column.name, properties)
    if link is not None:
        heading, target = link
        panel.override_by_name(
            heading, [DynamicConfigValue(id_val="links", value=[target.build().to_json()])]
        )
    # Grafana names the values after their query, where there is more than one
    values = [f"Value #{ref_id}" for _, ref_id in zip(columns, "ABCDEFGH", strict=False)]
    if len(columns) == 1:
        values = ["Value"]
    names = {**keys, **{value: column.name for value, column in zip(values, columns, strict=True)}}
    panel.with_transformation(DataTransformerConfig(id_val="merge", options={}))
    panel.with_transformation(
        DataTransformerConfig(
            id_val="organize",
            options={
                "excludeByName": {"Time": True},
                "indexByName": {name: index for index, name in enumerate(names)},
                "renameByName": names,
            },
        )
    )
    return _place(panel, title, description, span=span, height=height)


def _finish(
    panel: Panel, title: str, description: str, unit: str, queries: Sequence[Query], *, span: int, height: int
) -> Panel:
    for query, ref_id in zip(queries, "ABCDEFGH", strict=False):
        panel.with_target(_target(query, ref_id).range().legend_format(query.legend or "__auto"))
    panel.unit(unit)
    return _place(panel, title, description, span=span, height=height)


def _place(panel: Panel, title: str, description: str, *, span: int, height: int) -> Panel:
    panel.title(title).description(description).datasource(SOURCE).span(span).height(height)
    return panel


def _target(query: Query, ref_id: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(query.expr).ref_id(ref_id).datasource(SOURCE)
