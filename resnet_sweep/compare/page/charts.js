"use strict";
// The charts, drawn by Plotly: learning curves, accuracy over length, and parallel coordinates.

// Mostly the colors of Okabe and Ito, which color-blind people can distinguish.
const PALETTE = [
  "#0072b2",
  "#d55e00",
  "#009e73",
  "#cc79a7",
  "#b8860b",
  "#56b4e9",
  "#8c564b",
  "#7f5fc7",
  "#e69f00",
  "#5f8a00",
];
const REFERENCE = { dash: "dot", colors: ["#8a8f98", "#b0a18a"] };
// From the lowest to the highest accuracy. All are legible on a light and on a dark background.
const SHADES = [
  "#5b6fd6",
  "#4a8fd0",
  "#3aa6b0",
  "#3db28a",
  "#6bb55a",
  "#a3b03f",
  "#cfa236",
  "#e2862f",
  "#e0502f",
];
const colors = new Map();

// A row keeps its color while its curves are drawn.
function colorOf(key) {
  for (const other of colors.keys()) if (!view.drawn.has(other)) colors.delete(other);
  if (!colors.has(key)) {
    const free = PALETTE.filter((color) => ![...colors.values()].includes(color));
    colors.set(key, free[0] ?? PALETTE[colors.size % PALETTE.length]);
  }
  return colors.get(key);
}

// Plotly interprets a few HTML tags in texts, so they are escaped.
function plain(text, maxLength = 60) {
  const short = text.length > maxLength ? `${text.slice(0, maxLength - 1)}…` : text;
  return short.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

function layout(more) {
  const style = getComputedStyle(document.body);
  const line = getComputedStyle(document.querySelector("header")).borderBottomColor;
  const axis = { gridcolor: line, zeroline: false, automargin: true };
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: style.color, family: style.fontFamily, size: 12 },
    hoverlabel: { font: { family: style.fontFamily, size: 12 }, namelength: -1 },
    margin: { l: 44, r: 10, t: 8, b: 36 },
    ...more,
    xaxis: { ...axis, ...more.xaxis },
    yaxis: { ...axis, ...more.yaxis },
  };
}

const CONFIG = { displayModeBar: false, responsive: true };

function draw(place, traces, design) {
  Plotly.react(place, traces, layout(design), CONFIG);
}

// Optuna's plots keep their own axes, and get the background and the fonts of the page.
function drawStudyPlot(place, traces, design) {
  const { paper_bgcolor, plot_bgcolor, font, hoverlabel, xaxis } = layout({});
  const axes = Object.fromEntries(
    Object.keys({ xaxis, yaxis: xaxis, ...design })
      .filter((name) => /^[xy]axis\d*$/.test(name))
      .map((name) => [name, { ...xaxis, ...design[name] }]),
  );
  const margin = { l: 60, r: 20, t: 24, b: 50 };
  const own = { paper_bgcolor, plot_bgcolor, font, hoverlabel, margin };
  Plotly.react(place, structuredClone(traces), { ...structuredClone(design), ...own, ...axes, width: null }, CONFIG);
}

// The values of a metric in several runs, {epoch: [values]}, in the order of the epochs. Only epochs
// of all runs are included, because the mean would jump where one of the runs ends.
function byEpoch(members, metric) {
  const found = new Map();
  for (const run of members) {
    const values = run.curves[metric] ?? [];
    run.curves.epoch.forEach((epoch, place) => {
      if (typeof values[place] === "number")
        found.set(epoch, [...(found.get(epoch) ?? []), values[place]]);
    });
  }
  const shared = [...found].filter(([, values]) => values.length === members.length);
  return new Map(shared.sort(([one], [other]) => one - other));
}

function bandOf(values, kind) {
  if (kind === "range") return [Math.min(...values), Math.max(...values)];
  const spread = deviation(values);
  return [mean(values) - spread, mean(values) + spread];
}

function curvesOf({ label, members, color, dash }, metric) {
  const common = {
    type: "scatter",
    mode: "lines",
    showlegend: false,
    hovertemplate: "epoch %{x}: %{y:.4~f}",
  };
  const lines = [];
  for (const part of ["val", "train"]) {
    const epochs = byEpoch(members, `${part}_${metric}`);
    const [x, all] = [[...epochs.keys()], [...epochs.values()]];
    if (!x.length) continue;
    const middle = all.map(mean);
    const validation = part === "val";
    if (validation && members.length > 1) {
      const band = all.map((values) => bandOf(values, document.getElementById("band").value));
      lines.push({
        ...common,
        x: [...x, ...[...x].reverse()],
        y: [...band.map(([low]) => low), ...band.map(([, high]) => high).reverse()],
        fill: "toself",
        fillcolor: `${color}30`,
        line: { width: 0 },
        hoverinfo: "skip",
        hovertemplate: undefined,
        name: plain(`${label}, spread`),
      });
    }
    lines.push({
      ...common,
      x,
      y: middle,
      name: plain(validation ? label : `${label}, training`),
      mode: x.length === 1 ? "markers" : "lines",
      line: { color, width: validation ? 2 : 1.3, dash: validation ? (dash ?? "solid") : "dash" },
    });
  }
  return lines;
}

function drawnRows() {
  const rows = [...view.drawn].map((key) => {
    const [kind, number] = [key.split(" ")[0], Number(key.split(" ")[1])];
    const chosen = counted(
      ownRuns.filter((run) => (kind === "run" ? run.number : run.group) === number),
    );
    const [first] = chosen;
    // Runs without curves are left out of the mean.
    const members = chosen.filter((run) => run.curves.epoch.length);
    const seed =
      kind === "run" &&
      "seed" in first.settings &&
      report.varied.some(({ name }) => name === "seed") &&
      first.variant !== first.name;
    const label =
      kind === "run"
        ? first.variant + (seed ? ` seed=${formatValue(first.settings.seed)}` : "")
        : `${first.variant}, n=${members.length}`;
    return { key, label, name: first.name, members, color: colorOf(key) };
  });
  return rows.map((row) => ({ ...row, label: isAmbiguous(row, rows) ? withName(row) : row.label }));
}

function isAmbiguous({ label }, rows) {
  return rows.filter((other) => other.label === label).length > 1;
}

function withName({ label, name }) {
  return label === name ? label : `${label} (${name})`;
}

// The reference runs, cut at the last epoch of the other runs. Otherwise 100 epochs would leave
// no room for a run of a few epochs.
function referenceRows(last) {
  return references.map((run, place) => {
    const within = run.curves.epoch.filter((epoch) => epoch <= last).length;
    const cut = last && within ? within : run.curves.epoch.length;
    const curves = Object.fromEntries(
      Object.entries(run.curves).map(([name, values]) => [name, values.slice(0, cut)]),
    );
    const range =
      cut < run.curves.epoch.length
        ? `, up to epoch ${curves.epoch.at(-1)} of ${run.curves.epoch.at(-1)}`
        : "";
    return {
      label: run.name + range,
      members: [{ ...run, curves }],
      color: REFERENCE.colors[place % REFERENCE.colors.length],
      dash: REFERENCE.dash,
    };
  });
}

function drawLegend(rows) {
  const legend = document.getElementById("legend");
  legend.replaceChildren(
    ...rows.map(({ key, label, color, dash }) => {
      const swatch = element("span", { class: "line" });
      swatch.style.borderTop = `3px ${dash ? "dotted" : "solid"} ${color}`;
      const remove = ({ currentTarget }) => {
        const place = [...legend.querySelectorAll("button")].indexOf(currentTarget);
        view.drawn.delete(key);
        drawTable();
        drawCurves();
        const buttons = legend.querySelectorAll("button");
        (buttons[place] ?? buttons[place - 1] ?? legend).focus();
      };
      const button =
        key &&
        element(
          "button",
          {
            type: "button",
            class: "plain",
            "aria-label": `remove the curves of ${label}`,
            title: "remove these curves",
            onclick: remove,
          },
          "×",
        );
      return element("li", {}, swatch, element("span", {}, label), button || "");
    }),
  );
}

function drawCurves() {
  const drawn = drawnRows();
  const last = Math.max(
    0,
    ...drawn.flatMap(({ members }) => members.map((run) => run.curves.epoch.at(-1) ?? 0)),
  );
  const rows = [...(document.getElementById("references").checked ? referenceRows(last) : []), ...drawn];
  drawLegend(rows);
  for (const [place, metric] of [
    ["accuracy", "acc"],
    ["loss", "loss"],
    ...report.metrics.map(({ column }) => [column, column.replace("val_", "")]),
  ]) {
    draw(
      place,
      rows.flatMap((row) => curvesOf(row, metric)),
      {
        xaxis: { title: { text: "epoch" }, rangemode: "tozero" },
        hovermode: "closest",
        annotations: rows.length
          ? []
          : [
              {
                text: "No curves: select runs in the column “draw” of the table.",
                showarrow: false,
                xref: "paper",
                yref: "paper",
                x: 0.5,
                y: 0.5,
              },
            ],
      },
    );
  }
}

function drawLengths() {
  const section = document.getElementById("lengths");
  section.hidden = !report.lengths.length;
  document.querySelector('nav a[href="#lengths"]').hidden = section.hidden;
  if (section.hidden) return;
  const traces = report.lengths.map(({ name, epochs, mean, sd, n }, place) => ({
    type: "scatter",
    mode: "lines+markers",
    name: plain(name),
    x: epochs,
    y: mean,
    error_y: { type: "data", array: sd },
    text: n.map((count) => `n=${count}`),
    hovertemplate: "%{x} epochs: %{y:.4~f}, %{text}",
    line: { color: PALETTE[place % PALETTE.length] },
    showlegend: report.lengths.length > 1,
  }));
  draw("length-curves", traces, {
    xaxis: { title: { text: "trainer.epochs" }, rangemode: "tozero" },
    hovermode: "closest",
    legend: { orientation: "h", y: 1.02, yanchor: "bottom" },
    margin: { l: 44, r: 10, t: 30, b: 36 },
  });
}

const NULL_GAP = 0.15;

// An axis of the parallel coordinates: a function from a value to its position, 0 to 1, and ticks.
function scaleOf(values) {
  const present = unique(values.filter((value) => value !== undefined && value !== null));
  if (present.length && present.every((value) => typeof value === "number")) {
    const [low, high] = [Math.min(...present), Math.max(...present)];
    const scale = low > 0 && high / low >= 10 ? Math.log : (value) => value;
    // Missing values are below all others, so that no line is interrupted.
    const gap = present.length < unique(values).length ? NULL_GAP : 0;
    const share = (value) =>
      high === low ? 0.5 : (scale(value) - scale(low)) / (scale(high) - scale(low));
    const place = (value) => (typeof value === "number" ? gap + (1 - gap) * share(value) : 0);
    const ticks = (present.length <= 6 ? present : [low, high]).map((value) => [
      place(value),
      Number(value.toPrecision(4)).toString(),
    ]);
    return { place, ticks: gap ? [[0, "null"], ...ticks] : ticks };
  }
  const names = unique(values.map(formatValue)).sort();
  const place = (value) =>
    names.length === 1 ? 0.5 : names.indexOf(formatValue(value)) / (names.length - 1);
  return { place, ticks: names.slice(0, 12).map((name) => [place(name), name || "none"]) };
}

const MAX_AXES = 9;

function drawParallel() {
  const section = document.getElementById("hyperparameters");
  const settings = columns
    .filter(({ name, varied }) => varied && name !== "seed")
    .slice(0, MAX_AXES);
  section.hidden = !settings.length || !ownRuns.some((run) => best(run) !== undefined);
  document.querySelector('nav a[href="#hyperparameters"]').hidden = section.hidden;
  if (section.hidden) return;
  const runs = shownGroups()
    .flatMap(({ members }) => members)
    .filter((run) => best(run) !== undefined);
  const axes = [...settings, columns.find(({ id }) => id === "best")];
  const scales = axes.map(({ value }) => scaleOf(runs.map(value)));
  const shades = SHADES.map(() => ({ x: [], y: [], text: [] }));
  for (const run of runs) {
    const position = scales.at(-1).place(best(run));
    const shade = shades[Math.round(position * (SHADES.length - 1))];
    const label = plain(`${run.name}  ${percent(best(run))}`, 80);
    axes.forEach(({ value }, place) => {
      shade.x.push(place);
      shade.y.push(scales[place].place(value(run)));
      shade.text.push(label);
    });
    for (const list of [shade.x, shade.y, shade.text]) list.push(null);
  }
  const traces = shades.map((shade, place) => ({
    ...shade,
    type: "scatter",
    mode: "lines+markers",
    line: { color: SHADES[place], width: 1.6 },
    marker: { size: 5, color: SHADES[place] },
    hovertemplate: "%{text}<extra></extra>",
    showlegend: false,
  }));
  const line = layout({}).xaxis.gridcolor;
  const chart = document.getElementById("parallel");
  chart.style.minWidth = `${110 * axes.length}px`;
  draw(chart, traces, {
    margin: { l: 60, r: 60, t: 34, b: 14 },
    xaxis: {
      range: [-0.15, axes.length - 0.75],
      showgrid: false,
      showticklabels: false,
      fixedrange: true,
    },
    yaxis: { range: [-0.06, 1.06], showgrid: false, showticklabels: false, fixedrange: true },
    hovermode: "closest",
    shapes: axes.map((_, place) => ({
      type: "line",
      x0: place,
      x1: place,
      y0: 0,
      y1: 1,
      line: { color: line, width: 1 },
      layer: "below",
    })),
    annotations: axes.flatMap(({ name }, place) => [
      {
        text: `<b>${plain(name.split(".").at(-1), 16)}</b>`,
        x: place,
        y: 1.06,
        yanchor: "bottom",
        showarrow: false,
      },
      ...scales[place].ticks.map(([y, label]) => ({
        text: plain(label, 16),
        x: place,
        y,
        xanchor: "left",
        xshift: 6,
        showarrow: false,
        font: { size: 11 },
        bgcolor: getComputedStyle(document.body).backgroundColor,
        opacity: 0.85,
        borderpad: 1,
      })),
    ]),
  });
}
