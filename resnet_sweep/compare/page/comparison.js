"use strict";
// The comparison of two runs.

const selects = [document.getElementById("one"), document.getElementById("other")];

// A third run replaces the run that was selected first.
function compare(number) {
  const place = view.compared.indexOf(number);
  const free = view.compared.indexOf(undefined);
  if (place >= 0) view.compared[place] = undefined;
  else if (free >= 0) view.compared[free] = number;
  else view.compared = [view.compared[1], number];
  drawTable();
  drawComparison();
}

function fillSelects() {
  for (const [place, select] of selects.entries()) {
    select.append(
      element("option", { value: "" }, "select a run here, or click its name in the table"),
      ...allRuns.map((run) => element("option", { value: run.number }, titleOf(run))),
    );
    select.onchange = () => {
      view.compared[place] = select.value === "" ? undefined : Number(select.value);
      drawTable();
      drawComparison();
    };
  }
}

function isIncidental(name) {
  return report.incidental.some((other) => name === other || name.startsWith(`${other}.`));
}

function differences(one, other) {
  return [...new Set([...Object.keys(one), ...Object.keys(other)])]
    .sort()
    .filter((name) => JSON.stringify(one[name]) !== JSON.stringify(other[name]))
    .map((name) => [name, one[name], other[name]]);
}

function differenceTable(title, rows) {
  if (!rows.length) return "";
  const cells = (value, digits) =>
    element(
      "td",
      {},
      value === undefined
        ? element("span", { class: "spread" }, "not set")
        : roundDigits(value, digits),
    );
  return element(
    "div",
    {},
    element("h3", {}, title),
    element(
      "table",
      {},
      element(
        "thead",
        {},
        element(
          "tr",
          {},
          ["", "A", "B"].map((head) => element("th", { scope: "col" }, head)),
        ),
      ),
      element(
        "tbody",
        {},
        rows.map(([name, one, other]) => {
          // Numbers that would look equal are shown with all digits.
          const digits = formatValue(one) === formatValue(other) ? 17 : 4;
          const values = [one, other].map((value) => cells(value, digits));
          return element("tr", {}, element("th", { scope: "row" }, name), ...values);
        }),
      ),
    ),
  );
}

// Differences between accuracies are points. A percent sign would be ambiguous.
const inPercent = { show: percent, showChange: (change) => change.toFixed(2) };
const OUTCOMES = [
  {
    name: "state",
    value: ({ state, reason }) => (reason ? `${state}: ${reason}` : state),
    show: formatValue,
  },
  { name: "best validation accuracy", value: best, ...inPercent, better: 1 },
  { name: "best epoch", value: (run) => run.best?.epoch, show: formatValue },
  { name: "final validation accuracy", value: (run) => run.final?.val_acc, ...inPercent, better: 1 },
  { name: "final training accuracy", value: (run) => run.final?.train_acc, ...inPercent },
  { name: "final training loss", value: (run) => run.final?.train_loss, show: decimals },
  { name: "final validation loss", value: (run) => run.final?.val_loss, show: decimals, better: -1 },
  { name: "overfitting gap", value: (run) => run.gap, ...inPercent },
  { name: "epochs", value: (run) => run.final?.epoch, show: formatValue },
  {
    name: "parameters",
    value: (run) => run.parameters,
    show: (value) => value?.toLocaleString("en") ?? "",
  },
  { name: "time", value: (run) => run.seconds || undefined, show: duration },
  { name: "CPU share", value: (run) => run.cpu_share, ...inPercent },
  { name: "peak memory", value: (run) => run.memory, show: mebibytes },
  { name: "peak GPU memory", value: (run) => run.gpu_memory, show: mebibytes },
  {
    name: "notes",
    value: ({ notes }) =>
      notes.map((note) => (note.endsWith(".") ? note : `${note}.`)).join(" ") || undefined,
    show: formatValue,
  },
];

function outcomeTable(one, other) {
  const rows = OUTCOMES.map(({ name, value: valueOf, show, showChange = show, better }) => {
    const [first, second] = [valueOf(one), valueOf(other)].map((value) => value ?? undefined);
    const change = numbers([first, second]).length === 2 ? second - first : undefined;
    if (first === undefined && second === undefined) return "";
    const className = change && better ? (change * better > 0 ? "better" : "worse") : undefined;
    const sign = change > 0 ? "+" : change < 0 ? "−" : "";
    return element(
      "tr",
      {},
      element("th", { scope: "row" }, name),
      ...[first, second].map((value) =>
        element("td", { class: typeof value === "string" ? undefined : "number" }, show(value)),
      ),
      element(
        "td",
        { class: `number ${className ?? ""}` },
        change === undefined ? "" : sign + showChange(Math.abs(change)),
      ),
    );
  });
  const heads = ["", "A", "B", "B − A"].map((head, place) =>
    element("th", { scope: "col", class: place ? "number" : undefined }, head),
  );
  return element(
    "div",
    {},
    element("h3", {}, "Outcome"),
    element(
      "table",
      {},
      element("thead", {}, element("tr", {}, heads)),
      element("tbody", {}, rows),
    ),
  );
}

function drawComparison() {
  for (const [place, select] of selects.entries()) select.value = view.compared[place] ?? "";
  const place = document.getElementById("differences");
  if (view.compared.includes(undefined)) {
    place.replaceChildren();
    return;
  }
  const [one, other] = view.compared.map((number) => allRuns[number]);
  const settings = differences(one.settings, other.settings);
  const choices = differences(one.choices, other.choices);
  const environment = [
    ...differences(one.environment, other.environment),
    ...settings.filter(([name]) => isIncidental(name)),
  ];
  const relevant = settings.filter(([name]) => !isIncidental(name));
  const same = relevant.length ? "" : "All settings that decide what is trained are the same.";
  place.replaceChildren(
    ...[
      same && element("p", { class: "note" }, same),
      outcomeTable(one, other),
      differenceTable("Choices", choices),
      differenceTable("Settings", relevant),
      differenceTable("Environment", environment),
    ].filter(Boolean),
  );
}
