// Garbage collections, a timer and a file, for Node.
let kept = [];
let sum = 0;
for (let i = 0; i < 300000; i++) {
  const one = { i, text: "x" + i, list: new Array(10).fill(i) };
  if (i % 10 == 0) kept.push(one);
  if (kept.length > 5000) kept = kept.slice(2500);
  sum += one.list[3] + one.text.length;
}
console.log("sum", sum, kept.length);
setTimeout(() => console.log("later"), 1000);
require("fs").readFile("/etc/passwd", (error, content) => console.log("read", !error && content.length > 0));
