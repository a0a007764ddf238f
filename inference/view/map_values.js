/* What the layers say of a place: asked of those in the page, or of the server. */
class Values {
  constructor(about, layers, box) {
    Object.assign(this, { about, layers, box });
  }

  clear() {
    this.box.textContent = "";
  }

  /* Say what is at a place on the ground. */
  tell(x, y) {
    const [a, b, c, d, e, f] = this.about.to_crs;
    const inCrs = [a * x + b * y + c, d * x + e * y + f];
    if (this.about.values) this.ask(x, y, inCrs);
    else this.say(inCrs, this.layers.map((layer) => layer.text && layer.text(x, y)));
  }

  /* One question at a time; of those that come meanwhile only the last is asked. */
  async ask(x, y, inCrs) {
    this.next = [x, y, inCrs];
    if (this.isAsking) return;
    this.isAsking = true;
    while (this.next) {
      const [nextX, nextY, place] = this.next;
      this.next = null;
      try {
        const answer = await fetch(`${this.about.values}?x=${nextX}&y=${nextY}`);
        if (!answer.ok) continue;
        const said = await answer.json();
        this.say(said.place || place, said.texts);
      } catch { // the server has been stopped
        this.box.textContent = "the server does not answer; is treeline view still running?";
      }
    }
    this.isAsking = false;
  }

  say([x, y], texts) {
    this.box.replaceChildren();
    texts.forEach((text, place) => { if (text) this.add(this.about.layers[place].name, text); });
    this.add(this.about.crs, `${x.toFixed(this.about.decimals)}, ${y.toFixed(this.about.decimals)}`);
  }

  add(name, text) {
    const pair = this.box.appendChild(document.createElement("span"));
    pair.append(Object.assign(document.createElement("b"), { textContent: name }), ` ${text}`);
  }
}
