for (const table of document.querySelectorAll(".sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const down = head.ariaSort === "ascending";
    heads.forEach(other => { other.ariaSort = "none" });
    head.ariaSort = down ? "descending" : "ascending";
    const value = row => row.cells[column].dataset.value;
    const rows = [...body.rows], plain = rows.every(row => !isNaN(value(row)));
    const compare = (a, b) => plain ? a - b : a.localeCompare(b, undefined, { numeric: true });
    // what has no value comes last
    const order = (a, b) => (a === "") - (b === "") || (down ? -1 : 1) * compare(a, b);
    rows.sort((a, b) => order(value(a), value(b)));
    body.append(...rows);
  }));
}
