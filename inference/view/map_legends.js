/* What explains a map: legends of the layers that are shown, and the scale bar. */
const LONGEST_BAR = 130;

function fillLegends(legends, layers) {
  legends.replaceChildren(...layers.filter((layer) => layer && layer.scale).map(legend));
  if (legends.children.length) legends.append(patch(null, "no value"));
}

function legend(layer) {
  const box = Object.assign(document.createElement("div"), { className: "legend" });
  box.append(Object.assign(document.createElement("b"), { textContent: layer.title }));
  if (layer.scale.edges.length || layer.scale.numbers)
    layer.names.forEach((name, number) => box.append(patch(layer.scale.colours[number], name)));
  else box.append(...ramp(layer));
  return box;
}

function ramp(layer) {
  const colours = layer.scale.colours.filter((_, number) => number % 5 === 0);
  const band = Object.assign(document.createElement("span"), { className: "ramp" });
  band.style.background = `linear-gradient(to right, ${colours.map((c) => `rgb(${c})`)})`;
  const ticks = Object.assign(document.createElement("span"), { className: "ticks" });
  for (const text of layer.ticks)
    ticks.append(Object.assign(document.createElement("span"), { textContent: text }));
  return [band, ticks];
}

function patch(colour, name) {
  const entry = document.createElement("span");
  entry.className = "entry";
  const square = entry.appendChild(document.createElement("i"));
  if (colour) square.style.background = `rgb(${colour})`;
  entry.append(name);
  return entry;
}

/* scale: CSS pixels per metre. */
function fillBar(bar, scale) {
  const metres = round125(LONGEST_BAR / scale);
  bar.style.width = `${metres * scale}px`;
  bar.textContent = metres >= 1000 ? `${metres / 1000} km` : `${Number(metres.toPrecision(1))} m`;
}

function round125(most) {
  const power = 10 ** Math.floor(Math.log10(most));
  return power * [5, 2, 1].find((step) => step * power <= most);
}
