// A list of rows to choose from. Texts are set as text: a title is never read as HTML.
function part(kind, text, parent) {
  if (!text) return null;
  const element = document.createElement("span");
  element.className = kind;
  element.textContent = text;
  parent.append(element);
  return element;
}

function drawn(row, model) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  button.type = "button";
  button.className = "row";
  button.addEventListener("click", () => model.send_msg({ action: "open", key: row.key }));
  part("rank", row.rank, button);
  const texts = document.createElement("span");
  texts.className = "texts";
  part("title", row.title, texts);
  part("detail", row.detail, texts);
  part("why", row.why, texts);
  part("adds", row.adds, texts);
  button.append(texts);
  const figures = document.createElement("span");
  figures.className = "figures";
  part("value", row.value, figures);
  if (row.tone) part(`badge ${row.tone}`, row.badge, figures);
  if (row.share !== undefined) {
    const bar = document.createElement("span");
    bar.className = "bar";
    bar.style.setProperty("--share", `${100 * Math.max(0, Math.min(1, row.share))}%`);
    figures.append(bar);
  }
  button.append(figures);
  item.append(button);
  if (row.removable) {
    const remove = document.createElement("button");
    remove.type = "button";
    remove.className = "remove";
    remove.textContent = "×";
    remove.setAttribute("aria-label", `Remove ${row.title}`);
    remove.addEventListener("click", () => model.send_msg({ action: "remove", key: row.key }));
    item.append(remove);
  }
  return item;
}

export function render({ model }) {
  const box = document.createElement("div");
  const draw = () => {
    const list = document.createElement("ol");
    list.setAttribute("aria-label", model.label);
    list.append(...model.rows.map((row) => drawn(row, model)));
    box.replaceChildren(list);
    if (!model.rows.length) part("empty", model.empty, box);
  };
  model.on("rows", draw);
  draw();
  return box;
}
