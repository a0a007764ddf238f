/* Layers whose pixels are in the page, as numbers (data) or as a picture. */
const MISSING = -32768;

async function inflated(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Int16Array(await new Response(stream).arrayBuffer());
}

function colourOf(scale, value) {
  if (scale.numbers) return scale.colours[scale.numbers.indexOf(value)];
  if (scale.edges.length) return scale.colours[scale.edges.filter((edge) => edge <= value).length];
  const share = Math.min(Math.max((value - scale.low) / (scale.high - scale.low), 0), 1);
  return scale.colours[Math.min(Math.floor(share * scale.colours.length), scale.colours.length - 1)];
}

/* Layer whose pixels are in the page. */
class InPage {
  constructor(layer, changed) {
    this.layer = layer;
    if (layer.picture) {
      this.drawable = new Image();
      this.drawable.onload = changed;
      this.drawable.src = layer.picture;
    }
    if (layer.data) inflated(layer.data).then((stored) => { this.fill(stored); changed(); });
  }

  fill(stored) {
    const { width, height, scale, step } = this.layer;
    this.stored = stored;
    if (!scale) return;
    const pixels = new ImageData(width, height);
    const known = new Map();
    stored.forEach((one, place) => {
      if (one === MISSING) return;
      if (!known.has(one)) known.set(one, [...(colourOf(scale, one * step) || [0, 0, 0]), 255]);
      pixels.data.set(known.get(one), 4 * place);
    });
    this.drawable = document.createElement("canvas");
    Object.assign(this.drawable, { width, height });
    this.drawable.getContext("2d").putImageData(pixels, 0, 0);
  }

  draw(context, toScreen) {
    if (!this.drawable || !(this.drawable.width > 0)) return;
    const [left, top, right, bottom] = toScreen(this.layer.rect);
    context.imageSmoothingEnabled = right - left < this.layer.width;
    context.drawImage(this.drawable, left, top, right - left, bottom - top);
  }

  text(x, y) {
    const { rect, width, height, step, scale, unit, kind, names } = this.layer;
    if (!this.stored) return null; // a picture shows, and measures nothing
    const column = Math.floor(((x - rect[0]) / (rect[2] - rect[0])) * width);
    const row = Math.floor(((y - rect[1]) / (rect[3] - rect[1])) * height);
    const inside = column >= 0 && row >= 0 && column < width && row < height;
    const stored = inside ? this.stored[row * width + column] : MISSING;
    if (stored === MISSING) return "no value";
    if (kind === "classes") return names[scale.numbers.indexOf(stored)] || String(stored);
    const value = (stored * step).toFixed(this.layer.decimals);
    return `${kind === "difference" && value > 0 ? "+" : ""}${value} ${unit}`;
  }
}
