// What is wrong with the page as it is shown; lists of texts, each with the element it is in.
(() => {
  document.querySelectorAll("details").forEach((one) => (one.open = true));

  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return canvas.getImageData(0, 0, 1, 1).data;
  };
  // WCAG 2.2: relative luminance, contrast ratio
  const luminance = ([r, g, b]) => {
    const [R, G, B] = [r, g, b].map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * R + 0.7152 * G + 0.0722 * B;
  };
  const contrast = (a, b) => {
    const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  };
  const background = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const colour = rgba(getComputedStyle(one).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return rgba("Canvas");
  };

  const texts = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode, parent = node.parentElement;
    const range = document.createRange();
    range.selectNodeContents(node);
    const boxes = [...range.getClientRects()].filter((box) => box.width && box.height);
    if (node.data.trim() && boxes.length && !parent.closest("script, style")) {
      texts.push({ name: node.data.trim(), parent, boxes });
    }
  }

  const clipped = [...document.body.querySelectorAll("*")].filter(
    (one) => !(one instanceof SVGElement) && one.scrollWidth > one.clientWidth + 1 &&
      one.clientWidth && getComputedStyle(one).overflowX !== "visible");
  const outside = texts.filter(({ parent, boxes }) => {
    const svg = parent.closest("svg")?.getBoundingClientRect();
    const [left, right] = svg ? [svg.left, svg.right] : [0, innerWidth];
    return boxes.some((box) => box.left < left - 0.5 || box.right > right + 0.5);
  });
  const faint = texts.filter(({ parent }) => {
    const style = getComputedStyle(parent);
    const colour = rgba(parent instanceof SVGElement ? style.fill : style.color);
    return contrast(colour, background(parent)) < 4.5;
  });
  const shared = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2 &&
    Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2;
  const overlapping = [];
  texts.forEach((one, i) => texts.slice(i + 1).forEach((other) => {
    if (one.boxes.some((a) => other.boxes.some((b) => shared(a, b)))) overlapping.push(`${one.name} / ${other.name}`);
  }));

  const unnamed = [
    ...(document.documentElement.lang ? [] : ["html without lang"]),
    ...(document.title ? [] : ["no title"]),
    ...[...document.images].filter((one) => !one.alt).map(() => "img without alt"),
    ...[...document.querySelectorAll("svg:not([role=img][aria-label])")].map(() => "svg without label"),
    ...[...document.querySelectorAll("th:not([scope])")].map((one) => `th without scope: ${one.textContent}`),
  ];
  return {
    texts: texts.length,
    width: document.scrollingElement.scrollWidth,
    brightness: luminance(background(document.body)),
    cut: [...clipped.map((one) => `${one.tagName}: ${one.textContent}`), ...outside.map(({ name }) => name)],
    faint: faint.map(({ name }) => name),
    overlapping,
    unnamed,
  };
})();
