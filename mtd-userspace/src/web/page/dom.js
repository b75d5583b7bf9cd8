// Making and updating elements. Text is never interpreted as HTML.

/** An element with properties and children. */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "class") made.className = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

/** Sets the text if it has changed, so that nothing is drawn or read out again without a reason. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Shows terms and values as tiles, except those without a value. `entries`: [term, value] pairs. */
export function setTiles(list, entries) {
  const shown = entries.filter(([, value]) => value !== null);
  while (list.children.length > shown.length) list.lastChild.remove();
  while (list.children.length < shown.length) {
    list.append(element("div", {}, element("dt"), element("dd")));
  }
  shown.forEach(([term, value], nth) => {
    const [dt, dd] = list.children[nth].children;
    setText(dt, term);
    setText(dd, value);
  });
}

/**
 * Keeps one row for each item, in the items' order. `make(item)` builds `{node, update}`; `rows` is a Map by key that
 * the caller keeps.
 */
export function setRows(body, rows, items, keyOf, make) {
  const present = new Set(items.map(keyOf));
  for (const [key, row] of rows) {
    if (!present.has(key)) {
      row.node.remove();
      rows.delete(key);
    }
  }
  items.forEach((item, nth) => {
    const key = keyOf(item);
    if (!rows.has(key)) rows.set(key, make(item));
    const row = rows.get(key);
    if (body.children[nth] !== row.node) body.insertBefore(row.node, body.children[nth] ?? null);
    row.update(item);
  });
}
