-- Seven programs in the manner of the Language Benchmark Game, as small as a test needs them.
local function tree(depth)
    if depth == 0 then return {} end
    return {tree(depth - 1), tree(depth - 1)}
end
local function nodes(t) return t[1] and 1 + nodes(t[1]) + nodes(t[2]) or 1 end
local function binary_trees(depth)
    local sum = 0
    for d = 4, depth, 2 do
        for _ = 1, 1 << (depth - d) do sum = sum + nodes(tree(d)) end
    end
    print("binary trees", sum)
end

local function fannkuch(n)
    local perm, count, most, checksum, even = {}, {}, 0, 0, true
    for i = 1, n do perm[i], count[i] = i, i end
    while true do
        local p = {table.unpack(perm)}
        local flips = 0
        while p[1] ~= 1 do
            local first = p[1]
            for i = 1, first // 2 do p[i], p[first + 1 - i] = p[first + 1 - i], p[i] end
            flips = flips + 1
        end
        most = math.max(most, flips)
        checksum = checksum + (even and flips or -flips)
        if even then
            perm[1], perm[2] = perm[2], perm[1]
        else
            perm[2], perm[3] = perm[3], perm[2]
            for i = 3, n do
                if count[i] ~= 1 then count[i] = count[i] - 1; break end
                if i == n then print("fannkuch", checksum, most); return end
                count[i] = i
                table.insert(perm, i + 1, table.remove(perm, 1))
            end
        end
        even = not even
    end
end

local function n_body(steps)
    local pi, days = math.pi, 365.24
    local mass = 4 * pi * pi
    local bodies = {
        {0, 0, 0, 0, 0, 0, mass},
        {4.84143144246472090, -1.16032004402742839, -0.103622044471123109, 0.00166007664274403694 * days,
            0.00769901118419740425 * days, -0.0000690460016972063023 * days, 0.000954791938424326609 * mass},
        {8.34336671824457987, 4.12479856412430479, -0.403523417114321381, -0.00276742510726411100 * days,
            0.00499852801234917238 * days, 0.0000230417297573763929 * days, 0.000285885980666130812 * mass},
        {12.8943695621391310, -15.1111514016986312, -0.223307578892655734, 0.00296460137564761618 * days,
            0.00237847173959480950 * days, -0.0000296589568540237556 * days, 0.0000436624404335156298 * mass},
        {15.3796971148509165, -25.9193146099879641, 0.179258772950371181, 0.00268067772490389322 * days,
            0.00162824170038242295 * days, -0.0000951592254519715870 * days, 0.0000515138902046611451 * mass},
    }
    local px, py, pz = 0, 0, 0
    for _, b in ipairs(bodies) do px, py, pz = px + b[4] * b[7], py + b[5] * b[7], pz + b[6] * b[7] end
    bodies[1][4], bodies[1][5], bodies[1][6] = -px / mass, -py / mass, -pz / mass
    local function energy()
        local e = 0
        for i, b in ipairs(bodies) do
            e = e + 0.5 * b[7] * (b[4] * b[4] + b[5] * b[5] + b[6] * b[6])
            for j = i + 1, 5 do
                local c = bodies[j]
                local x, y, z = b[1] - c[1], b[2] - c[2], b[3] - c[3]
                e = e - b[7] * c[7] / math.sqrt(x * x + y * y + z * z)
            end
        end
        print(string.format("n-body\t%.9f", e))
    end
    energy()
    for _ = 1, steps do
        for i, b in ipairs(bodies) do
            for j = i + 1, 5 do
                local c = bodies[j]
                local x, y, z = b[1] - c[1], b[2] - c[2], b[3] - c[3]
                local square = x * x + y * y + z * z
                local size = 0.01 / (square * math.sqrt(square))
                b[4], b[5], b[6] = b[4] - x * c[7] * size, b[5] - y * c[7] * size, b[6] - z * c[7] * size
                c[4], c[5], c[6] = c[4] + x * b[7] * size, c[5] + y * b[7] * size, c[6] + z * b[7] * size
            end
        end
        for _, b in ipairs(bodies) do b[1], b[2], b[3] = b[1] + 0.01 * b[4], b[2] + 0.01 * b[5], b[3] + 0.01 * b[6] end
    end
    energy()
end

local function spectral_norm(n)
    local function a(i, j) return 1 / ((i + j) * (i + j + 1) / 2 + i + 1) end
    local function multiply(v, transposed)
        local result = {}
        for i = 0, n - 1 do
            local sum = 0
            for j = 0, n - 1 do sum = sum + (transposed and a(j, i) or a(i, j)) * v[j + 1] end
            result[i + 1] = sum
        end
        return result
    end
    local u, v = {}, nil
    for i = 1, n do u[i] = 1 end
    for _ = 1, 10 do
        v = multiply(multiply(u, false), true)
        u = multiply(multiply(v, false), true)
    end
    local above, below = 0, 0
    for i = 1, n do above, below = above + u[i] * v[i], below + v[i] * v[i] end
    print(string.format("spectral norm\t%.9f", math.sqrt(above / below)))
end

local letters = {{"a", 0.3029549426680}, {"c", 0.1979883004921}, {"g", 0.1975473066391}, {"t", 0.3015094502008}}
local function fasta(n)
    local seed, text = 42, {}
    for i = 1, n do
        seed = (seed * 3877 + 29573) % 139968
        local random = seed / 139968
        local letter = "t"
        for k = 1, 4 do
            if random < letters[k][2] then letter = letters[k][1]; break end
            random = random - letters[k][2]
        end
        text[i] = letter
    end
    return table.concat(text)
end
local function print_fasta(n)
    local sum, text = 0, fasta(n)
    for i = 1, n do sum = (sum * 31 + text:byte(i)) % 1000000007 end
    print("fasta", sum)
end

local function mandelbrot(size)
    local inside = 0
    for row = 0, size - 1 do
        for column = 0, size - 1 do
            local cr, ci, r, i, n = 2 * column / size - 1.5, 2 * row / size - 1, 0, 0, 0
            while n < 50 and r * r + i * i <= 4 do r, i, n = r * r - i * i + cr, 2 * r * i + ci, n + 1 end
            if n == 50 then inside = inside + 1 end
        end
    end
    print("mandelbrot", inside)
end

local function k_nucleotide(n)
    local text = fasta(n)
    for length = 1, 2 do
        local counts, names = {}, {}
        for i = 1, n - length + 1 do
            local part = text:sub(i, i + length - 1)
            if not counts[part] then counts[part] = 0; names[#names + 1] = part end
            counts[part] = counts[part] + 1
        end
        table.sort(names)
        for _, name in ipairs(names) do print("k-nucleotide", name, counts[name]) end
    end
end

local scale = tonumber(arg and arg[1] or 1)
binary_trees(8 + scale)
fannkuch(6 + scale)
n_body(500 * scale)
spectral_norm(40 * scale)
print_fasta(5000 * scale)
mandelbrot(50 * scale)
k_nucleotide(4000 * scale)
