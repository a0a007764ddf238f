/* A map to look at: two layers with a swipe between them, above one that may lie below both. */
class MapView {
  constructor(root) {
    this.about = JSON.parse(root.querySelector("script").textContent);
    this.part = (name) => root.querySelector(`.${name}`);
    this.canvas = this.part("map");
    const changed = () => this.redraw();
    this.layers = this.about.layers.map((layer) => new (layer.tiles ? Tiles : InPage)(layer, changed));
    this.frame = new Frame(this.about.extent, this.about.pixel);
    this.values = new Values(this.about, this.layers, this.part("values"));
    this.shown = { ...this.about.shown };
    this.swipe = 0.5;
    this.fillChoices();
    listen(this);
    new ResizeObserver(() => this.resize()).observe(this.part("stage"));
    this.resize();
  }

  fillChoices() {
    for (const side of ["left", "right", "below"]) {
      const choice = this.part(side);
      if (side === "below") choice.add(new Option("nothing", ""));
      this.about.layers.forEach((layer, place) => {
        if ((side === "below") === ["image", "background"].includes(layer.kind) || side !== "below")
          if (side === "below" || layer.kind !== "background") choice.add(new Option(layer.name, place));
      });
      choice.value = this.shown[side] ?? "";
      choice.onchange = () => {
        this.shown[side] = choice.value === "" ? null : Number(choice.value);
        this.drawLegends();
        this.redraw();
      };
    }
    this.part("below").closest("label").hidden = this.part("below").length < 2;
    this.part("handle").hidden = this.part("right").length < 2;
    this.part("opacity").oninput = () => this.redraw();
    this.drawLegends();
  }

  resize() {
    const box = this.part("stage").getBoundingClientRect();
    if (!box.width || !box.height) return; // hidden
    this.frame.resize(box.width, box.height, window.devicePixelRatio || 1);
    this.canvas.width = Math.round(box.width * this.frame.ratio);
    this.canvas.height = Math.round(box.height * this.frame.ratio);
    this.redraw();
  }

  /* how: changes the frame that it is given. */
  move(how) {
    how(this.frame);
    this.redraw();
  }

  setSwipe(share) {
    this.swipe = Math.min(Math.max(share, 0), 1);
    this.redraw();
  }

  /* Say what is at a place on the screen. */
  tell(x, y) {
    this.values.tell(...this.frame.ground(x, y));
  }

  redraw() {
    if (this.waiting || !this.frame.width) return;
    this.waiting = requestAnimationFrame(() => { this.waiting = 0; this.draw(); });
  }

  draw() {
    const context = this.canvas.getContext("2d");
    const { width, height } = this.canvas;
    const handle = this.part("handle");
    const cut = handle.hidden ? width : Math.round(this.swipe * width);
    const opacity = this.part("opacity").value / 100;
    context.clearRect(0, 0, width, height);
    this.drawLayer(context, "below", 0, width, 1);
    this.drawLayer(context, "left", 0, cut, opacity);
    this.drawLayer(context, "right", cut, width, opacity);
    if (this.canvas.matches(":focus-visible")) this.drawCross(context, width / 2, height / 2);
    handle.style.left = `${this.swipe * 100}%`;
    handle.setAttribute("aria-valuenow", Math.round(this.swipe * 100));
    fillBar(this.part("bar"), this.frame.scale);
  }

  /* from, to: columns of the canvas that it may fill. */
  drawLayer(context, side, from, to, opacity) {
    const layer = this.layers[this.shown[side]];
    if (!layer || to <= from) return;
    const { frame } = this;
    context.save();
    context.beginPath();
    context.rect(from, 0, to - from, this.canvas.height);
    context.clip();
    context.globalAlpha = opacity;
    layer.draw(context, (rect) => frame.toScreen(rect), frame.seen, frame.metres);
    context.restore();
  }

  /* Where the values are from while the map is moved by keys. */
  drawCross(context, x, y) {
    for (const [colour, wide] of [["#fff", 3], ["#000", 1]]) {
      context.strokeStyle = colour;
      context.lineWidth = wide * this.frame.ratio;
      context.beginPath();
      context.moveTo(x - 9, y);
      context.lineTo(x + 9, y);
      context.moveTo(x, y - 9);
      context.lineTo(x, y + 9);
      context.stroke();
    }
  }

  drawLegends() {
    const places = new Set([this.shown.left, this.part("handle").hidden ? null : this.shown.right]);
    fillLegends(this.part("legends"), [...places].map((place) => this.about.layers[place]));
  }
}

function begin() {
  for (const root of document.querySelectorAll(".treeline-map"))
    if (!root.view) root.view = new MapView(root);
}
if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
else begin();
