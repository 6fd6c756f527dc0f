# Seven programs in the manner of the Language Benchmark Game, as small as a test needs them.
import math
import sys


def tree(depth):
    return (tree(depth - 1), tree(depth - 1)) if depth else ()


def nodes(t):
    return 1 + nodes(t[0]) + nodes(t[1]) if t else 1


def binary_trees(depth):
    total = sum(nodes(tree(d)) for d in range(4, depth + 1, 2) for _ in range(1 << (depth - d)))
    print("binary trees", total, sep="\t")


def fannkuch(n):
    perm, count = list(range(n)), list(range(1, n + 1))
    most = checksum = 0
    even = True
    while True:
        p, flips = perm[:], 0
        while p[0]:
            p[: p[0] + 1] = reversed(p[: p[0] + 1])
            flips += 1
        most = max(most, flips)
        checksum += flips if even else -flips
        if even:
            perm[0], perm[1] = perm[1], perm[0]
        else:
            perm[1], perm[2] = perm[2], perm[1]
            for i in range(2, n):
                if count[i] != 1:
                    count[i] -= 1
                    break
                if i == n - 1:
                    print("fannkuch", checksum, most, sep="\t")
                    return
                count[i] = i + 1
                perm.insert(i + 1, perm.pop(0))
        even = not even


def n_body(steps):
    days, mass = 365.24, 4 * math.pi * math.pi
    bodies = [
        [0, 0, 0, 0, 0, 0, mass],
        [4.84143144246472090, -1.16032004402742839, -0.103622044471123109, 0.00166007664274403694 * days,
         0.00769901118419740425 * days, -0.0000690460016972063023 * days, 0.000954791938424326609 * mass],
        [8.34336671824457987, 4.12479856412430479, -0.403523417114321381, -0.00276742510726411100 * days,
         0.00499852801234917238 * days, 0.0000230417297573763929 * days, 0.000285885980666130812 * mass],
        [12.8943695621391310, -15.1111514016986312, -0.223307578892655734, 0.00296460137564761618 * days,
         0.00237847173959480950 * days, -0.0000296589568540237556 * days, 0.0000436624404335156298 * mass],
        [15.3796971148509165, -25.9193146099879641, 0.179258772950371181, 0.00268067772490389322 * days,
         0.00162824170038242295 * days, -0.0000951592254519715870 * days, 0.0000515138902046611451 * mass],
    ]
    for axis in range(3):
        bodies[0][3 + axis] = -sum(b[3 + axis] * b[6] for b in bodies) / mass

    def energy():
        e = 0.0
        for i, b in enumerate(bodies):
            e += 0.5 * b[6] * (b[3] * b[3] + b[4] * b[4] + b[5] * b[5])
            for c in bodies[i + 1 :]:
                e -= b[6] * c[6] / math.dist(b[:3], c[:3])
        print(f"n-body\t{e:.9f}")

    energy()
    for _ in range(steps):
        for i, b in enumerate(bodies):
            for c in bodies[i + 1 :]:
                x, y, z = b[0] - c[0], b[1] - c[1], b[2] - c[2]
                square = x * x + y * y + z * z
                size = 0.01 / (square * math.sqrt(square))
                for axis, distance in enumerate((x, y, z)):
                    b[3 + axis] -= distance * c[6] * size
                    c[3 + axis] += distance * b[6] * size
        for b in bodies:
            for axis in range(3):
                b[axis] += 0.01 * b[3 + axis]
    energy()


def spectral_norm(n):
    def a(i, j):
        return 1 / ((i + j) * (i + j + 1) // 2 + i + 1)

    def multiply(v):
        once = [sum(a(i, j) * v[j] for j in range(n)) for i in range(n)]
        return [sum(a(j, i) * once[j] for j in range(n)) for i in range(n)]

    u = [1] * n
    for _ in range(10):
        v = multiply(u)
        u = multiply(v)
    print(f"spectral norm\t{math.sqrt(sum(map(float.__mul__, u, v)) / sum(x * x for x in v)):.9f}")


LETTERS = (("a", 0.3029549426680), ("c", 0.1979883004921), ("g", 0.1975473066391), ("t", 0.3015094502008))


def fasta(n):
    seed, text = 42, []
    for _ in range(n):
        seed = (seed * 3877 + 29573) % 139968
        random = seed / 139968
        found = "t"
        for letter, share in LETTERS:
            if random < share:
                found = letter
                break
            random -= share
        text.append(found)
    return "".join(text)


def print_fasta(n):
    total = 0
    for letter in fasta(n).encode():
        total = (total * 31 + letter) % 1000000007
    print("fasta", total, sep="\t")


def mandelbrot(size):
    inside = 0
    for row in range(size):
        for column in range(size):
            cr, ci, r, i, n = 2 * column / size - 1.5, 2 * row / size - 1, 0.0, 0.0, 0
            while n < 50 and r * r + i * i <= 4:
                r, i, n = r * r - i * i + cr, 2 * r * i + ci, n + 1
            inside += n == 50
    print("mandelbrot", inside, sep="\t")


def k_nucleotide(n):
    text = fasta(n)
    for length in (1, 2):
        counts = {}
        for i in range(n - length + 1):
            part = text[i : i + length]
            counts[part] = counts.get(part, 0) + 1
        for name in sorted(counts):
            print("k-nucleotide", name, counts[name], sep="\t")


scale = int(sys.argv[1]) if len(sys.argv) > 1 else 1
binary_trees(8 + scale)
fannkuch(6 + scale)
n_body(500 * scale)
spectral_norm(40 * scale)
print_fasta(5000 * scale)
mandelbrot(50 * scale)
k_nucleotide(4000 * scale)
