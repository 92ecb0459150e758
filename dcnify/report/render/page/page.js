// Sort a table by a column, and add the rows past the first thousand as one scrolls to them.
const CHUNK = 500;
const make = (cells, heads) => {
  const row = document.createElement("tr");
  cells.forEach(([text, value, tone], index) => {
    const cell = document.createElement(index ? "td" : "th");
    if (!index) cell.scope = "row";
    cell.className = `${heads[index].className} ${tone}${text.length > 48 ? " long" : ""}`;
    cell.textContent = text;
    if (value !== null) cell.dataset.value = value;
    row.append(cell);
  });
  return row;
};
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells], holder = table.parentElement;
  const data = holder.querySelector("script"), more = holder.querySelector(".more");
  let later = data ? JSON.parse(data.textContent) : [];
  const add = (count) => {
    body.append(...later.slice(0, count).map((cells) => make(cells, heads)));
    later = later.slice(count);
    if (more) more.textContent = later.length ? `${body.rows.length} of ${body.rows.length + later.length} rows` : "";
  };
  if (later.length) {
    const watch = new IntersectionObserver((seen) => {
      if (seen.some((one) => one.isIntersecting)) add(CHUNK);
      watch.unobserve(more);
      if (later.length) watch.observe(more);
    }, { rootMargin: "600px" });
    watch.observe(more);
    addEventListener("beforeprint", () => add(later.length));
  }
  if (body.rows.length < 2) continue;
  heads.forEach((head, index) => {
    const button = document.createElement("button");
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      add(later.length);
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((one) => one.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.cells[index].dataset.value ?? row.cells[index].textContent;
      const compare = (a, b) => {
        const [x, y] = [key(a), key(b)], [p, q] = [Number(x), Number(y)];
        if (x === "" || y === "") return (x === "") - (y === "");  // empty cells stay at the end
        const order = isNaN(p) || isNaN(q) ? x.localeCompare(y, "en", { numeric: true }) : p - q;
        return down ? -order : order;
      };
      body.append(...[...body.rows].sort(compare));
    });
  });
}
// A figure says on paper what its numbers would take pages for.
addEventListener("beforeprint", () => document.querySelectorAll("details.file").forEach((one) => { one.open = true; }));
