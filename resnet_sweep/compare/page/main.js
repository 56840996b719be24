"use strict";
// Builds the page.

// The number of rows whose curves are drawn at first.
const BEST_COUNT = 5;

function plural(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

function card(title, value, details) {
  return element(
    "div",
    { class: "card" },
    element("div", { class: "card-title" }, title),
    element("div", { class: "card-value" }, value),
    element("div", { class: "card-details", title: details }, details),
  );
}

function bestOf(list) {
  return list
    .filter((run) => best(run) !== undefined)
    .reduce((one, other) => (one && best(one) >= best(other) ? one : other), undefined);
}

function drawSummary() {
  const states = new Map();
  for (const { state } of ownRuns) states.set(state, (states.get(state) ?? 0) + 1);
  const counts = [...states].map(([state, count]) => `${count} ${state}`);
  if (report.damaged.length) counts.push(`${report.damaged.length} can't be read`);
  const cards = [card("runs", String(ownRuns.length), counts.join(", "))];
  const data = unique(ownRuns.map(({ choices }) => choices.data));
  for (const name of data) {
    const winner = bestOf(ownRuns.filter(({ choices }) => choices.data === name));
    if (winner)
      cards.push(
        card(
          `best validation accuracy${data.length > 1 ? `, ${formatValue(name)}` : ""}`,
          percent(best(winner)),
          `${winner.variant}, epoch ${winner.best.epoch}`,
        ),
      );
  }
  const seconds = numbers(ownRuns.map((run) => run.seconds));
  if (seconds.length)
    cards.push(
      card(
        "total time",
        duration(seconds.reduce((sum, value) => sum + value, 0)),
        `mean ${duration(mean(seconds))} per run`,
      ),
    );
  for (const run of references)
    cards.push(
      card(
        `${run.name.replaceAll("_", " ")}, best accuracy`,
        percent(best(run)),
        `final ${percent(run.final?.val_acc)}, gap ${percent(run.gap)}`,
      ),
    );
  document.getElementById("summary").append(...cards);
}

function textTable([header, ...rows], label) {
  const cells = (tag, row) => row.map((text) => element(tag, {}, text));
  return element(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": label },
    element(
      "table",
      {},
      element("thead", {}, element("tr", {}, ...cells("th", header))),
      element("tbody", {}, ...rows.map((row) => element("tr", {}, ...cells("td", row)))),
    ),
  );
}

// Optuna's plots, in the colors of the page, and the confirmations.
function drawStudies() {
  const section = document.getElementById("studies");
  section.hidden = !report.studies.length;
  document.querySelector('nav a[href="#studies"]').hidden = section.hidden;
  const charts = [];
  document.getElementById("studies-list").replaceChildren(
    ...report.studies.map(({ name, summary, figures, confirmation }) =>
      element(
        "div",
        {},
        element("p", { class: "note" }, `${name}: ${summary}`),
        ...(confirmation.length
          ? [
              textTable(confirmation, `Confirmation of ${name}`),
              element(
                "p",
                { class: "note" },
                "claimed: the value in the study; confirmed: the mean over new seeds; " +
                  "difference: from the current config, with its interval",
              ),
            ]
          : []),
        element(
          "div",
          { class: "charts" },
          ...figures.map(({ title, data, layout }) => {
            const chart = element("div", { class: "chart" });
            charts.push([chart, data, layout]);
            return element("figure", {}, element("figcaption", {}, title), chart);
          }),
        ),
      ),
    ),
  );
  for (const [chart, data, design] of charts) drawStudyPlot(chart, data, design);
}

// The variants of sweeps with a baseline.
function drawVerdicts() {
  const section = document.getElementById("verdicts");
  section.hidden = !report.verdicts.length;
  document.querySelector('nav a[href="#verdicts"]').hidden = section.hidden;
  document.getElementById("verdicts-list").replaceChildren(
    ...report.verdicts.map(({ name, rows, notes }) =>
      element(
        "div",
        {},
        element("h3", {}, name),
        textTable(rows, `Verdicts of ${name}`),
        ...notes.map((note) => element("p", { class: "note" }, note)),
      ),
    ),
  );
}

// A chart for each further metric, below the accuracy and the loss.
function addCharts() {
  document.querySelector("#curves .charts").append(
    ...report.metrics.map(({ column, percent: inPercent }) =>
      element(
        "figure",
        {},
        element("figcaption", {}, column + (inPercent ? ", %" : "")),
        element("div", { id: column, class: "chart" }),
      ),
    ),
  );
}

function drawFigures() {
  const section = document.getElementById("figures");
  section.hidden = !report.figures.length;
  document.querySelector('nav a[href="#figures"]').hidden = section.hidden;
  if (section.hidden) return;
  const run = allRuns[report.figures_of];
  const variant = run.variant === run.name ? "" : ` (${run.variant})`;
  document.getElementById("figures-of").textContent =
    `From the best run that has figures: ${run.name}${variant}, ` +
    `best validation accuracy ${percent(best(run))}.`;
  document.getElementById("gallery").append(
    ...report.figures.map(({ title, data }) => {
      const figure = element("figure", {});
      const button = element(
        "button",
        {
          type: "button",
          "aria-expanded": "false",
          "aria-label": `enlarge ${title}`,
          onclick: () =>
            button.setAttribute("aria-expanded", String(figure.classList.toggle("large"))),
        },
        element("img", { src: data, alt: title }),
      );
      figure.append(element("figcaption", {}, title), button);
      return figure;
    }),
  );
}

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function showTheme() {
  document.getElementById("theme").setAttribute("aria-pressed", String(isDark()));
  drawCurves();
  drawLengths();
  drawParallel();
  drawStudies();
}

// Only rows on the same data as the first row, because accuracies on other data aren't comparable.
function drawBest() {
  const data = shownGroups()[0]?.members[0].choices.data;
  const groups = shownGroups({ column: "best", descending: true }).filter(
    ({ members }) => members[0].choices.data === data,
  );
  view.drawn = new Set(
    groups
      .filter(({ key }) => key !== undefined)
      .slice(0, BEST_COUNT)
      .map(({ members }) => rowKey(members)),
  );
}

function listen() {
  const on = (name, event, action) => document.getElementById(name).addEventListener(event, action);
  on("search", "input", ({ target }) => {
    view.search = target.value;
    drawRuns();
  });
  on("singles", "change", ({ target }) => {
    view.singles = target.checked;
    drawRuns();
  });
  on("draw-best", "click", () => {
    drawBest();
    drawTable();
    drawCurves();
  });
  on("draw-none", "click", () => {
    view.drawn.clear();
    drawTable();
    drawCurves();
  });
  on("references", "change", drawCurves);
  on("band", "change", drawCurves);
  on("theme", "click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    showTheme();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTheme);
}

document.title = `${report.title}: ${plural(ownRuns.length, "run")}`;
document.getElementById("title").textContent = report.title;
document.getElementById("subtitle").textContent =
  `${plural(ownRuns.length, "run")}, written ${formatTime(report.written)}`;
document.getElementById("footer").textContent = report.footer;
document.getElementById("references-label").hidden = !references.length;
drawSummary();
drawHead();
drawDamaged();
drawVerdicts();
drawFigures();
addCharts();
fillSelects();
drawBest();
drawTable();
drawComparison();
listen();
showTheme();
