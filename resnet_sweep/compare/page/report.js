"use strict";
// The data of the page, and functions for it.

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
const references = allRuns.filter((run) => run.reference);

// The variant: the settings and choices of a run that differ between runs, as overrides.
for (const run of ownRuns) {
  const overrides = report.varied
    .filter(({ name, part }) => name !== "seed" && name in run[part])
    .map(({ name, part }) => `${name}=${formatValue(run[part][name])}`);
  run.variant = overrides.join(" ") || run.name;
}
for (const run of references) run.variant = run.name;

// An object without a prototype, so that settings can have any names.
function mapping(...parts) {
  return Object.assign(Object.create(null), ...parts);
}

function formatValue(value) {
  return roundDigits(value, 4);
}

// A value as text. Integers keep all digits, and other numbers the digits before the decimal point.
function roundDigits(value, digits) {
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

function mebibytes(value) {
  return typeof value === "number" ? `${Math.round(value).toLocaleString("en")} MiB` : "";
}

// A time without its seconds.
function formatTime(time) {
  return time ? time.slice(0, 16).replace("T", " ") : "";
}

function numbers(values) {
  return values.filter((value) => typeof value === "number");
}

function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

// The sample standard deviation; undefined for a single value.
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

// Sorts numbers by size and other values as text. Missing values are last in both directions.
function order(one, other, descending) {
  const missing = [one, other].map(
    (value) => value === undefined || value === null || value === "",
  );
  if (missing[0] || missing[1]) return missing[0] - missing[1];
  const numeric = typeof one === "number" && typeof other === "number";
  const ascending = numeric
    ? one - other
    : formatValue(one).localeCompare(formatValue(other), undefined, { numeric: true });
  return descending ? -ascending : ascending;
}

// The name of a run, with its variant and its seed.
function titleOf(run) {
  const seed = "seed" in run.settings ? ` seed=${formatValue(run.settings.seed)}` : "";
  return run.name + (run.variant === run.name ? "" : `  (${run.variant}${seed})`);
}

function best(run) {
  return run.best?.val_acc ?? undefined;
}

// The page shows data only in text nodes and attributes, so that the browser never parses it as HTML.
function element(tag, attributes = {}, ...children) {
  const created = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick" || name === "onchange") created[name] = value;
    else if (value !== undefined && value !== false) created.setAttribute(name, value);
  }
  created.append(...children.flat().filter((child) => child !== undefined && child !== ""));
  return created;
}
