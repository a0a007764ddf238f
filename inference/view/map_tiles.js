/* Layers whose pixels come as tiles, from the server or, for a background, from the host that it names. */
const TILE = 256;
const MOST_TILES = 400;

/* Layer of tiles. At level n a tile's pixel is 2^n base pixels wide, and base pixels are counted from 0, 0. */
class Tiles {
  constructor(layer, changed) {
    Object.assign(this, { layer, changed, tiles: new Map() });
  }

  level(metres) {
    const wanted = Math.round(Math.log2(metres / this.layer.tiles.pixel[0]) - 0.2);
    return Math.min(Math.max(wanted, this.layer.tiles.finest), this.layer.tiles.coarsest);
  }

  source(level, column, row) {
    const { url, zoom } = this.layer.tiles;
    return url.replaceAll("{level}", level).replaceAll("{z}", zoom - level)
      .replaceAll("{x}", column).replaceAll("{y}", row);
  }

  tile(level, column, row, ask) {
    const key = `${level}/${column}/${row}`;
    let tile = this.tiles.get(key);
    if (tile) { // the most recently used is the last
      this.tiles.delete(key);
      this.tiles.set(key, tile);
    } else if (ask) {
      tile = new Image();
      tile.onload = () => { tile.isThere = true; this.changed(); };
      tile.src = this.source(level, column, row);
      this.tiles.set(key, tile);
      if (this.tiles.size > MOST_TILES) this.tiles.delete(this.tiles.keys().next().value);
    }
    return tile && tile.isThere ? tile : null;
  }

  rect(level, column, row) {
    const [wide, high] = this.layer.tiles.pixel.map((side) => side * TILE * 2 ** level);
    return [column * wide, row * high, (column + 1) * wide, (row + 1) * high];
  }

  draw(context, toScreen, seen, metres) {
    const level = this.level(metres);
    const [wide, high] = this.layer.tiles.pixel.map((side) => side * TILE * 2 ** level);
    const { rect } = this.layer;
    const [left, top, right, bottom] = [Math.max(seen[0], rect[0]), Math.max(seen[1], rect[1]),
      Math.min(seen[2], rect[2]), Math.min(seen[3], rect[3])];
    context.imageSmoothingEnabled = this.layer.tiles.pixel[0] * 2 ** level < metres;
    for (let row = Math.floor(top / high); row * high < bottom; row++)
      for (let column = Math.floor(left / wide); column * wide < right; column++)
        this.drawOne(context, toScreen(this.rect(level, column, row)), level, column, row);
  }

  /* Until a tile is there, its part of a coarser one that is. */
  drawOne(context, [left, top, right, bottom], level, column, row) {
    for (let up = 0; level + up <= this.layer.tiles.coarsest; up++) {
      const share = 2 ** up;
      const [outerColumn, outerRow] = [Math.floor(column / share), Math.floor(row / share)];
      const tile = this.tile(level + up, outerColumn, outerRow, up === 0);
      if (!tile) continue;
      const side = TILE / share;
      context.drawImage(tile, (column - outerColumn * share) * side, (row - outerRow * share) * side,
        side, side, left, top, right - left, bottom - top);
      return;
    }
  }
}
