"use strict";
// Draws the charts of the page with uPlot, from the JSON in #data; draws them anew when a control or the theme changes.
const data = JSON.parse(document.getElementById("data").textContent);
const axis = document.getElementById("axis");
const logarithmic = document.getElementById("logarithmic");
const smoothing = document.getElementById("smoothing");
const averaged = document.getElementById("averaged");
const HEIGHT = 230; // pixels of a chart
const hidden = new Set(); // runs whose curves are not shown
let plots = [];

const theme = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function number(value) {
  if (value == null) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) return value.toExponential(2);
  return value.toLocaleString("en", { maximumSignificantDigits: 4 });
}

// curves have points at different steps: each shows the nearest one to the cursor
function nearest(plot, series, index) {
  const values = plot.data[series];
  for (let away = 0; series > 0 && away < values.length; away++) {
    if (values[index - away] != null) return index - away;
    if (values[index + away] != null) return index + away;
  }
  return index;
}

// of values at ascending places, the one at another place between them, or the first or last beyond
function interpolated(places, values, at) {
  const next = places.findIndex(place => place >= at);
  if (next < 0) return values[values.length - 1];
  if (next === 0) return values[0];
  const share = (at - places[next - 1]) / (places[next] - places[next - 1]);
  return values[next - 1] + share * (values[next] - values[next - 1]);
}

// steps as what is on the axis
function along(run, steps) {
  if (axis.value === "step") return steps;
  if (axis.value === "hours") return steps.map(step => interpolated(...data.runs[run].hours, step));
  return steps.map(step => step * data.runs[run][axis.value]);
}

// an exponential moving average that begins at the first value, as if it had been there for ever
function smooth(values, weight) {
  let sum = 0, all = 0;
  return values.map(value => {
    sum = weight * sum + (1 - weight) * value;
    all = weight * all + (1 - weight);
    return sum / all;
  });
}

// what is drawn of a curve: its places on the axis, and its values
function drawn(curve) {
  const weight = curve.style === "train" ? Number(smoothing.value) : 0;
  return { ...curve, places: along(curve.run, curve.steps), values: smooth(curve.values, weight) };
}

// curves of runs that differ in their seed alone as one: the mean where all of them are, and a standard deviation around
function average(curves) {
  const groups = new Map();
  for (const curve of curves) {
    const what = curve.label.slice(data.runs[curve.run].name.length);
    const key = `${data.runs[curve.run].experiment} ${curve.style} ${what}`;
    groups.set(key, [...(groups.get(key) ?? []), { ...curve, what }]);
  }
  return [...groups.values()].map(group => {
    if (group.length === 1) return group[0];
    const begin = Math.max(...group.map(curve => curve.places[0]));
    const end = Math.min(...group.map(curve => curve.places[curve.places.length - 1]));
    const places = [...new Set(group.flatMap(curve => curve.places))].filter(x => begin <= x && x <= end).sort((a, b) => a - b);
    const at = places.map(x => group.map(curve => interpolated(curve.places, curve.values, x)));
    const values = at.map(each => each.reduce((a, b) => a + b) / each.length);
    const deviations = at.map((each, n) => Math.sqrt(each.reduce((sum, x) => sum + (x - values[n]) ** 2, 0) / (each.length - 1)));
    const label = `${data.runs[group[0].run].name} and ${group.length - 1} more seeds${group[0].what}`;
    return { ...group[0], label, places, values, deviations };
  });
}

function series(curve) {
  const colour = theme(`--run-${curve.run % data.colours}`);
  return {
    label: curve.label,
    stroke: curve.style === "baseline" ? theme("--quiet") : colour,
    width: curve.style === "held_out" ? 2.5 : 1.25,
    dash: curve.style === "baseline" ? [2, 4] : [],
    points: { show: curve.style === "held_out" || curve.places.length === 1, size: 7, fill: theme("--card") },
    spanGaps: true,
    value: (_, value) => number(value),
  };
}

function draw(chart, place) {
  const single = chart.curves.filter(curve => !hidden.has(curve.run)).map(drawn);
  const curves = averaged.checked ? average(single) : single;
  const tables = curves.map(curve => [curve.places, curve.values]);
  const around = curves.filter(curve => curve.deviations);
  for (const curve of around) {
    for (const sign of [1, -1]) tables.push([curve.places, curve.values.map((x, n) => x + sign * curve.deviations[n])]);
  }
  const edge = { stroke: "transparent", points: { show: false }, spanGaps: true, class: "edge" };
  const bands = around.map((curve, n) => ({
    series: [curves.length + 1 + 2 * n, curves.length + 2 + 2 * n],
    fill: theme(`--run-${curve.run % data.colours}`) + "33",
  }));
  const positive = tables.every(([, values]) => values.every(value => value > 0));
  const look = { stroke: theme("--quiet"), grid: { stroke: theme("--grid"), width: 1 }, ticks: { show: false } };
  const labels = (_, values) => values.map(value => (value == null ? "" : number(value)));
  const options = {
    width: place.clientWidth,
    height: HEIGHT,
    scales: { x: { time: false }, y: { distr: logarithmic.checked && positive ? 3 : 1 } },
    axes: [{ ...look, values: labels, space: 70, size: 32 }, { ...look, values: labels, size: 62 }],
    cursor: {
      sync: { key: "all", scales: ["x", null] },
      dataIdx: nearest,
      points: { size: 8, fill: (plot, index) => plot.series[index].stroke() },
      y: false,
      drag: { x: true, y: false },
    },
    bands,
    series: [
      { label: axis.value, value: (_, value) => number(value) },
      ...curves.map(series),
      ...around.flatMap(() => [edge, edge]),
    ],
  };
  return new uPlot(options, tables.length ? uPlot.join(tables) : [[]], place);
}

function drawAll() {
  plots.forEach(plot => plot.destroy());
  plots = data.charts.map((chart, index) => draw(chart, document.getElementById(`chart-${index}`)));
}

data.charts.forEach((chart, index) => {
  const box = document.createElement("div");
  const title = document.createElement("h3");
  const place = document.createElement("div");
  title.textContent = chart.title;
  place.id = `chart-${index}`;
  box.className = "chart";
  box.append(title, place);
  document.getElementById("charts").append(box);
});
drawAll();
for (const control of [axis, logarithmic, averaged]) control.addEventListener("change", drawAll);
smoothing.addEventListener("input", drawAll);
const experiments = new Set(data.runs.map(run => run.experiment));
document.getElementById("averaging").hidden = experiments.size === data.runs.length;

// the table of several runs: sorted by a column, filtered by words; what it hides is not drawn
const table = document.getElementById("compared");
if (table) {
  const rows = [...table.tBodies[0].rows];
  const text = (row, column) => row.cells[column].textContent;
  const value = cell => (/^-?[\d,.]+(e-?\d+)?$/.test(cell) ? Number(cell.replaceAll(",", "")) : NaN);
  const compare = (a, b) => {
    const [x, y] = [value(a), value(b)];
    return Number.isNaN(x) || Number.isNaN(y) ? Number.isNaN(x) - Number.isNaN(y) || a.localeCompare(b) : x - y;
  };
  const show = () => {
    const words = document.getElementById("filter").value.toLowerCase().split(" ").filter(Boolean);
    for (const row of rows) {
      const cells = row.textContent.toLowerCase();
      row.hidden = !words.every(word => cells.includes(word));
      const drawn = !row.hidden && row.querySelector("input").checked;
      hidden[drawn ? "delete" : "add"](Number(row.dataset.run));
    }
    drawAll();
  };
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    if (column === 0) return;
    heading.addEventListener("click", () => {
      const down = heading.ariaSort === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      heading.ariaSort = down ? "descending" : "ascending";
      rows.sort((a, b) => (down ? -1 : 1) * compare(text(a, column), text(b, column)));
      table.tBodies[0].append(...rows);
    });
  });
  document.getElementById("filter").addEventListener("input", show);
  table.tBodies[0].addEventListener("change", show);
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
new ResizeObserver(() => {
  plots.forEach(plot => plot.setSize({ width: plot.root.parentNode.clientWidth, height: HEIGHT }));
}).observe(document.getElementById("charts"));
