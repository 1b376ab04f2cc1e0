"use strict";
// Draws the charts of the page with uPlot, from the JSON in #data; draws them anew when the axis or the theme changes.
const data = JSON.parse(document.getElementById("data").textContent);
const axis = document.getElementById("axis");
const logarithmic = document.getElementById("logarithmic");
const HEIGHT = 230; // pixels of a chart
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

function series(curve) {
  const colour = theme(`--run-${curve.run % data.colours}`);
  return {
    label: curve.label,
    stroke: curve.style === "baseline" ? theme("--quiet") : colour,
    width: curve.style === "held_out" ? 2.5 : 1.25,
    dash: curve.style === "baseline" ? [2, 4] : [],
    points: { show: curve.style === "held_out" || curve.steps.length === 1, size: 7, fill: theme("--card") },
    spanGaps: true,
    value: (_, value) => number(value),
  };
}

function draw(chart, place) {
  const scale = run => (axis.value === "step" ? 1 : data.runs[run][axis.value]);
  const tables = chart.curves.map(curve => [curve.steps.map(step => step * scale(curve.run)), curve.values]);
  const positive = chart.curves.every(curve => curve.values.every(value => value > 0));
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
    series: [{ label: axis.value, value: (_, value) => number(value) }, ...chart.curves.map(series)],
  };
  return new uPlot(options, uPlot.join(tables), place);
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
axis.addEventListener("change", drawAll);
logarithmic.addEventListener("change", drawAll);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
new ResizeObserver(() => {
  plots.forEach(plot => plot.setSize({ width: plot.root.parentNode.clientWidth, height: HEIGHT }));
}).observe(document.getElementById("charts"));
