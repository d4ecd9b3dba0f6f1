// Makes every table with the class "sortable" sortable by its column heads, and long ones searchable; without scripts
// they are plain tables.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const text = (cell) => cell.textContent.trim().replace(/,(?=\d{3}\b)/g, "");  // 1,200 is a number
  const value = (row, column) => row.cells[column].dataset.value ?? text(row.cells[column]);
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const direction = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      const rows = [...table.tBodies[0].rows].sort((a, b) => {
        const [x, y] = [value(a, column), value(b, column)];
        const bothNumbers = x !== "" && y !== "" && !isNaN(x) && !isNaN(y);
        return direction * (bothNumbers ? x - y : x.localeCompare(y, "en", { numeric: true }));
      });
      table.tBodies[0].append(...rows);
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
    });
  });

  const all = [...table.tBodies[0].rows];
  if (all.length < 10) continue;
  const [label, input, shown] = ["label", "input", "output"].map((name) => document.createElement(name));
  input.type = "search";
  label.className = "filter";
  label.append("Filter rows ", input, " ", shown);
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/);
    for (const row of all) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
    shown.textContent = `${all.filter((row) => !row.hidden).length} of ${all.length}`;
  });
  table.closest(".scroll").before(label);
}
