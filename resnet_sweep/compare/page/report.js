"use strict";
// The data of the page, and what is derived from it.

const report = JSON.parse(document.getElementById("report").textContent);

const allRuns = report.runs.map((run, number) => ({
  ...run,
  number,
  ...Object.fromEntries(
    ["settings", "choices", "environment"].map((part) => [
      part,
      mapping(run.reference ? {} : report.common[part], run[part]),
    ]),
  ),
}));
const ownRuns = allRuns.filter((run) => !run.reference);
const loggedRuns = allRuns.filter((run) => run.reference);

// The settings and choices of a run that differ from others, as overrides.
for (const run of ownRuns) {
  const words = report.varied
    .filter(({ name, part }) => name !== "seed" && name in run[part])
    .map(({ name, part }) => `${name}=${shown(run[part][name])}`);
  run.recipe = words.join(" ") || run.name;
}
for (const run of loggedRuns) run.recipe = run.name;

// An object without a prototype, so that a setting may have any name.
function mapping(...parts) {
  return Object.assign(Object.create(null), ...parts);
}

function shown(value) {
  return rounded(value, 4);
}

// A value as text. Whole numbers keep all digits, and fractions those before the point.
function rounded(value, digits) {
  if (value === undefined) return "";
  if (typeof value === "string") return value;
  if (typeof value !== "number" || Number.isInteger(value)) return JSON.stringify(value);
  const large = Math.abs(value) >= 10 ** digits;
  return String(large ? Math.round(value) : Number(value.toPrecision(digits)));
}

function percent(value) {
  return typeof value === "number" ? `${value.toFixed(2)}%` : "";
}

function decimals(value) {
  return typeof value === "number" ? value.toFixed(4) : "";
}

function duration(seconds) {
  if (typeof seconds !== "number") return "";
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const [minutes, rest] = [Math.floor(whole / 60), whole % 60];
  if (minutes < 60) return `${minutes} min ${String(rest).padStart(2, "0")} s`;
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
}

function instant(text) {
  return text ? text.slice(0, 16).replace("T", " ") : "";
}

function known(values) {
  return values.filter((value) => typeof value === "number");
}

function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

// The sample standard deviation; of a single value there is none.
function deviation(values) {
  if (values.length < 2) return undefined;
  const middle = mean(values);
  return Math.sqrt(
    values.reduce((sum, value) => sum + (value - middle) ** 2, 0) / (values.length - 1),
  );
}

function unique(values) {
  return [...new Map(values.map((value) => [JSON.stringify(value), value])).values()];
}

// Numbers by size, everything else as text, and missing values last in either direction.
function order(one, other, descending) {
  const missing = [one, other].map(
    (value) => value === undefined || value === null || value === "",
  );
  if (missing[0] || missing[1]) return missing[0] - missing[1];
  const numbers = typeof one === "number" && typeof other === "number";
  const ascending = numbers
    ? one - other
    : shown(one).localeCompare(shown(other), undefined, { numeric: true });
  return descending ? -ascending : ascending;
}

// The name of a run, with its settings that differ.
function titleOf(run) {
  const seed = "seed" in run.settings ? ` seed=${shown(run.settings.seed)}` : "";
  return run.name + (run.recipe === run.name ? "" : `  (${run.recipe}${seed})`);
}

function best(run) {
  return run.best?.val_acc ?? undefined;
}

// The page shows data by text nodes alone, so that nothing of a run is ever read as markup.
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick" || name === "onchange") made[name] = value;
    else if (value !== undefined && value !== false) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child !== undefined && child !== ""));
  return made;
}
