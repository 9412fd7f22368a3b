(() => {
  const slider = document.getElementById("threshold");
  if (slider) {
    const rows = [...document.querySelectorAll("tr[data-bins]")].map((row) => {
      // From the last bin on: how many pass a threshold.
      const kept = row.dataset.bins.split(",").map(Number);
      for (let i = kept.length - 2; i >= 0; i--) kept[i] += kept[i + 1];
      return { kept, drawn: Number(row.dataset.drawn), cells: row.querySelectorAll("td") };
    });
    const overlay = document.querySelector(".overlay");
    const share = (kept, drawn) => (drawn ? (100 * kept / drawn).toFixed(1) : "0.0") + " %";
    const update = () => {
      const at = Number(slider.value);
      let [kept, drawn] = [0, 0];
      for (const row of rows) {
        const n = row.kept[at] || 0;
        kept += n;
        drawn += row.drawn;
        row.cells[0].textContent = n;
        row.cells[2].textContent = share(n, row.drawn);
        row.cells[2].style.setProperty("--v", row.drawn ? n / row.drawn : 0);
      }
      const text = `kept ${kept} of ${drawn} (${share(kept, drawn)})`;
      document.getElementById("threshold-at").textContent = (at / 100).toFixed(2);
      document.getElementById("kept").textContent = text;
      slider.setAttribute("aria-valuetext", `${(at / 100).toFixed(2)}: ${text}`);
      if (overlay) {
        const [from, to] = [Number(overlay.dataset.from), Number(overlay.dataset.to)];
        const x = from + (to - from) * at / 100;
        overlay.querySelector("rect").setAttribute("width", x - from);
        for (const end of ["x1", "x2"]) overlay.querySelector("line").setAttribute(end, x);
      }
    };
    slider.disabled = false;
    slider.addEventListener("input", update);
    update();
  }
  // Paper cannot be unfolded; what a drawing shows needs no table beside it there.
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open]):not(figure details)")];
    for (const one of closed) one.open = true;
  });
  addEventListener("afterprint", () => {
    for (const one of closed) one.open = false;
  });
})();
