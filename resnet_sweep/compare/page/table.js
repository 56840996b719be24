"use strict";
// The table of runs, with replicates in one row. It can be sorted and filtered, and rows expanded.

const table = document.getElementById("table");
const view = {
  search: "",
  filters: new Map(), // texts by their columns
  sort: { column: "best", descending: true },
  singles: false,
  expanded: new Set(), // numbers of groups whose runs are shown
  opened: new Set(), // numbers of runs whose details are shown
  drawn: new Set(), // keys of the rows whose curves are drawn
  compared: [undefined, undefined], // numbers of runs
};

const columns = [
  { id: "run", name: "run", value: (run) => run.name, className: "name" },
  { id: "state", name: "state", value: (run) => run.state },
  { id: "best", name: "best val", value: best, show: percent, numeric: true, outcome: true },
  {
    id: "final",
    name: "final val",
    value: (run) => run.final?.val_acc,
    show: percent,
    numeric: true,
    outcome: true,
  },
  ...report.metrics.map(({ column, percent: inPercent }) => ({
    id: `metric ${column}`,
    name: `best ${column}`,
    value: (run) => run.metrics[column],
    show: inPercent ? percent : decimals,
    numeric: true,
    outcome: true,
  })),
  ...report.varied.map(({ name, part }) => ({
    id: `${part} ${name}`,
    name,
    value: (run) => run[part][name],
    numeric: ownRuns.every((run) => ["number", "undefined"].includes(typeof run[part][name])),
    className: "value",
    varied: true,
  })),
  ...["tags", "note"]
    .filter((name) => ownRuns.some((run) => run[name]))
    .map((name) => ({ id: name, name, value: (run) => run[name], className: "value", free: true })),
  {
    id: "time",
    name: "time",
    value: (run) => run.seconds,
    show: duration,
    numeric: true,
    outcome: true,
  },
  ...(differInCpuShare()
    ? [
        {
          id: "cpu",
          name: "cpu",
          value: (run) => run.cpu_share,
          show: percent,
          numeric: true,
          outcome: true,
        },
      ]
    : []),
  { id: "started", name: "started", value: (run) => run.started, show: formatTime },
];
const MAX_OPTIONS = 12;

// The CPU share is a column if it can explain why some runs took longer than others.
function differInCpuShare() {
  const shares = numbers(ownRuns.map((run) => run.cpu_share));
  const longest = Math.max(...numbers(ownRuns.map((run) => run.seconds)));
  return longest > 60 && Math.min(...shares) < 0.8 * Math.max(...shares);
}

function text(column, run) {
  return (column.show ?? formatValue)(column.value(run));
}

// A filter is a comparison, for example >70, or a part of the text in the column.
function matches(value, shown, filter) {
  const comparison = filter.match(/^\s*(<=|>=|<|>|=)\s*(-?[\d.]+(?:e[+-]?\d+)?)\s*%?\s*$/i);
  if (!comparison) return shown.toLowerCase().includes(filter.trim().toLowerCase());
  const limit = Number(comparison[2]);
  if (typeof value !== "number") return false;
  switch (comparison[1]) {
    case "<":
      return value < limit;
    case ">":
      return value > limit;
    case "<=":
      return value <= limit;
    case ">=":
      return value >= limit;
    default:
      return value === limit;
  }
}

function passesFilter(run, column) {
  const filter = view.filters.get(column);
  if (!filter) return true;
  const shown = text(column, run);
  return column.options ? shown === filter.slice(1) : matches(column.value(run), shown, filter);
}

const outcomes = columns.filter(({ outcome }) => outcome);

// The replicates of a group that pass the search and the filters. Outcomes of a group are filtered by
// their mean, unless each run has its own row.
function filterRuns(replicates) {
  const words = view.search.toLowerCase().split(/\s+/).filter(Boolean);
  const filtered = view.singles ? columns : columns.filter(({ outcome }) => !outcome);
  const matching = replicates.filter((run) =>
    filtered.every((column) => passesFilter(run, column)),
  );
  if (!matching.length) return [];
  const means = view.singles ? [] : outcomes.flatMap((column) => summarize(column, matching).shown);
  const members = matching.filter((run) => {
    const all = [...columns.map((column) => text(column, run)), ...means].join("\n").toLowerCase();
    return words.every((word) => all.includes(word));
  });
  if (view.singles || !members.length) return members;
  const passed = outcomes.every((column) => {
    const filter = view.filters.get(column);
    const row = summarize(column, members);
    return !filter || matches(row.key, row.shown[0] ?? "", filter);
  });
  return passed ? members : [];
}

// The value of a group in a column: the mean of an outcome, the latest start, or all different
// values of a setting.
function summarize(column, members) {
  const values = members.map(column.value);
  if (column.id === "started") {
    const [newest] = values.sort((one, other) => order(one, other, true));
    return { key: newest, shown: [column.show(newest)] };
  }
  if (members.length === 1 || !column.outcome) {
    const different = unique(values).sort((one, other) => order(one, other, false));
    return { key: values[0], shown: different.map(column.show ?? formatValue) };
  }
  const known = numbers(counted(members).map(column.value));
  return {
    key: known.length ? mean(known) : undefined,
    shown: known.length ? [column.show(mean(known))] : [],
    spread: deviation(known),
  };
}

// The runs that statistics include: the complete ones without repetitions, or all if there are none.
function counted(members) {
  const complete = members.filter((run) => run.counted);
  return complete.length ? complete : members;
}

function shownGroups({ column: id, descending } = view.sort) {
  const groups = new Map();
  for (const run of ownRuns) groups.set(run.group, [...(groups.get(run.group) ?? []), run]);
  const column = columns.find((candidate) => candidate.id === id);
  const inOrder = (one, other) => order(one.key, other.key, descending);
  return [...groups]
    .map(([number, replicates]) => [number, filterRuns(replicates)])
    .filter(([, members]) => members.length)
    .map(([number, members]) => ({
      number,
      key: summarize(column, members).key,
      members: members
        .map((run) => ({ run, key: column.value(run) }))
        .sort(inOrder)
        .map(({ run }) => run),
    }))
    .sort(inOrder);
}

function rowKey(members) {
  return members.length === 1 ? `run ${members[0].number}` : `group ${members[0].group}`;
}

function drawHead() {
  const head = element(
    "tr",
    {},
    element("th", { class: "mark" }, element("span", { class: "note" }, "draw")),
  );
  const filters = element("tr", {}, element("th"));
  for (const column of columns) {
    const className = column.numeric ? "number" : undefined;
    const sort = element(
      "button",
      { type: "button", class: "plain", onclick: () => sortBy(column) },
      column.name,
    );
    column.head = element("th", { scope: "col", class: className, "aria-sort": "none" }, sort);
    head.append(column.head);
    filters.append(element("th", { class: className }, filterOf(column)));
  }
  table.tHead.append(head, filters);
}

function filterOf(column) {
  const label = `filter ${column.name}`;
  const values = unique(ownRuns.map((run) => text(column, run)));
  const change = ({ target }) => {
    view.filters.set(column, target.value);
    drawRuns();
  };
  const free = column.free || column.outcome || ["run", "started"].includes(column.id);
  if (free || values.length > MAX_OPTIONS) {
    const input = element("input", {
      type: "text",
      "aria-label": label,
      title: column.numeric ? "a comparison, for example >70, or a text" : "a text",
      placeholder: column.numeric ? ">" : undefined,
      autocomplete: "off",
    });
    input.addEventListener("input", change);
    return input;
  }
  column.options = values.sort((one, other) => order(one, other, false));
  // The sign before each value distinguishes an empty value from no filter.
  return element(
    "select",
    { "aria-label": label, onchange: change },
    element("option", { value: "" }, "all"),
    column.options.map((value) => element("option", { value: `=${value}` }, value || "none")),
  );
}

function sortBy(column) {
  const again = view.sort.column === column.id;
  view.sort = {
    column: column.id,
    descending: again ? !view.sort.descending : Boolean(column.numeric),
  };
  drawRuns();
}

function toggle(set, entry) {
  if (!set.delete(entry)) set.add(entry);
}

function groupRow(group) {
  const key = rowKey(group.members);
  const expanded = view.singles || view.expanded.has(group.number);
  const [{ variant }] = group.members;
  const [count, all] = [counted(group.members).length, group.members.length];
  const replicates = `${count === all ? all : `${count} of ${all}`} replicates`;
  const disclose = element(
    "button",
    {
      type: "button",
      class: "plain",
      "data-key": `expand ${group.number}`,
      "aria-expanded": String(expanded),
      "aria-label": `${replicates} of ${variant}`,
      onclick: () => {
        toggle(view.expanded, group.number);
        drawTable();
      },
    },
    `${expanded ? "▾" : "▸"} ${replicates}`,
  );
  const cells = columns.slice(1).map((column) => {
    const { shown: values, spread } = summarize(column, group.members);
    const text = values.length > 3 ? `${values.slice(0, 3).join(", ")}, …` : values.join(", ");
    const spreadText =
      spread === undefined
        ? ""
        : ` ± ${column.id === "time" ? duration(spread) : spread.toFixed(2)}`;
    return cell(
      column,
      [text, element("span", { class: "spread" }, spreadText)],
      text + spreadText,
    );
  });
  return element(
    "tr",
    { class: "group" },
    drawCell(key, `replicates of ${variant}`),
    element("td", { class: "name" }, disclose),
    cells,
  );
}

function cell(column, content, title) {
  const className = [column.numeric && "number", column.className].filter(Boolean).join(" ");
  return element("td", { class: className || undefined, title }, content);
}

function drawCell(key, what) {
  const box = element("input", {
    type: "checkbox",
    "data-key": `draw ${key}`,
    "aria-label": `draw ${what}`,
    checked: view.drawn.has(key) && "",
    onchange: () => {
      toggle(view.drawn, key);
      drawTable();
      drawCurves();
    },
  });
  const color = view.drawn.has(key) ? colorOf(key) : "transparent";
  const swatch = element("span", { class: "swatch" });
  swatch.style.background = color;
  return element("td", { class: "mark" }, box, swatch);
}

function runRows(run, member) {
  const place = view.compared.indexOf(run.number);
  const open = view.opened.has(run.number);
  const disclose = element(
    "button",
    {
      type: "button",
      class: "plain",
      "data-key": `open ${run.number}`,
      "aria-expanded": String(open),
      "aria-label": `details of ${titleOf(run)}`,
      onclick: () => {
        toggle(view.opened, run.number);
        drawTable();
      },
    },
    open ? "▾ " : "▸ ",
  );
  const name = element(
    "button",
    {
      type: "button",
      class: "plain",
      "data-key": `compare ${run.number}`,
      "aria-pressed": String(place >= 0),
      title: "select this run for the comparison",
      onclick: () => compare(run.number),
    },
    run.name,
  );
  const badge = place < 0 ? "" : element("span", { class: "badge" }, "AB"[place]);
  const cells = columns.slice(1).map((column) => {
    const content = text(column, run);
    return column.id === "state"
      ? element("td", { class: `state-${run.state}`, title: run.reason || undefined }, content)
      : cell(column, content, content);
  });
  const className = [member && "member", place >= 0 && "compared"].filter(Boolean).join(" ");
  const row = element(
    "tr",
    { class: className || undefined },
    drawCell(`run ${run.number}`, titleOf(run)),
    element("td", { class: "name", title: run.name }, disclose, badge, name),
    cells,
  );
  if (!open) return [row];
  return [
    row,
    element(
      "tr",
      {},
      element("td", { class: "details", colspan: columns.length + 1 }, details(run)),
    ),
  ];
}

function details(run) {
  const values = [
    ["best", run.best && `${percent(run.best.val_acc)} validation, in epoch ${run.best.epoch}`],
    [
      "final",
      run.final &&
        `${percent(run.final.val_acc)} validation, ${percent(run.final.train_acc)} training`,
    ],
    [
      "final loss",
      run.final &&
        `${decimals(run.final.val_loss)} validation, ${decimals(run.final.train_loss)} training`,
    ],
    ["overfitting gap", percent(run.gap)],
    ["parameters", run.parameters?.toLocaleString("en")],
    ["CPU share", percent(run.cpu_share)],
    ["peak memory", mebibytes(run.memory)],
    ["peak GPU memory", mebibytes(run.gpu_memory)],
    ["reused from", run.reused_from],
    ...Object.entries(run.environment).map(([name, value]) => [name, formatValue(value)]),
  ].filter(([, value]) => value);
  const settings = Object.keys(run.settings)
    .sort()
    .map((name) => `${name}: ${formatValue(run.settings[name])}`);
  const choices = Object.entries(run.choices).map(
    ([group, choice]) => `${group}=${formatValue(choice)}`,
  );
  return element(
    "div",
    {},
    run.reason && element("p", { class: "reason" }, run.reason),
    run.note && element("p", { class: "note" }, run.note),
    run.notes.map((note) => element("p", { class: "note" }, note)),
    element("h3", {}, "Reproduce with"),
    element("pre", { class: "command" }, run.command),
    element(
      "div",
      { class: "columns" },
      element(
        "div",
        {},
        element("h3", {}, "Outcome and environment"),
        element("pre", {}, values.map(([name, value]) => `${name}: ${value}`).join("\n")),
      ),
      element("div", {}, element("h3", {}, "Choices"), element("pre", {}, choices.join("\n"))),
    ),
    element("h3", {}, "Settings"),
    element("pre", { class: "settings" }, settings.join("\n")),
  );
}

function drawTable() {
  const focused = document.activeElement?.dataset?.key;
  const groups = shownGroups();
  const rows = groups.flatMap((group) => {
    if (group.members.length === 1) return runRows(group.members[0], false);
    const open = view.singles || view.expanded.has(group.number);
    return [groupRow(group), ...(open ? group.members.flatMap((run) => runRows(run, true)) : [])];
  });
  table.tBodies[0].replaceChildren(...rows);
  for (const column of columns) {
    const sorted = view.sort.column === column.id;
    column.head.setAttribute(
      "aria-sort",
      sorted ? (view.sort.descending ? "descending" : "ascending") : "none",
    );
  }
  const count = groups.reduce((sum, { members }) => sum + members.length, 0);
  document.getElementById("count").textContent = `${count} of ${ownRuns.length} runs`;
  if (focused) table.querySelector(`[data-key="${focused}"]`)?.focus();
}

// The table, and the parallel coordinates, which show the same runs.
function drawRuns() {
  drawTable();
  drawParallel();
}

function drawDamaged() {
  if (!report.damaged.length) return;
  document.getElementById("damaged").append(
    element("h3", {}, "Runs that can't be read"),
    element(
      "ul",
      {},
      report.damaged.map(({ name, reason }) =>
        element("li", {}, `${name}: `, element("span", { class: "reason" }, reason)),
      ),
    ),
  );
}
