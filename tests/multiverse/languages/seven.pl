# Seven programs in the manner of the Language Benchmark Game, as small as a test needs them.
use strict;
use warnings;

sub tree { my $d = shift; return $d ? [tree($d - 1), tree($d - 1)] : [] }
sub nodes { my $t = shift; return @$t ? 1 + nodes($t->[0]) + nodes($t->[1]) : 1 }
sub binary_trees {
    my ($depth, $sum) = (shift, 0);
    for (my $d = 4; $d <= $depth; $d += 2) { $sum += nodes(tree($d)) for 1 .. 1 << ($depth - $d) }
    print "binary trees\t$sum\n";
}

sub fannkuch {
    my $n = shift;
    my @perm = (0 .. $n - 1);
    my @count = (1 .. $n);
    my ($most, $checksum, $even) = (0, 0, 1);
    while (1) {
        my ($flips, @p) = (0, @perm);
        while ($p[0]) { @p[0 .. $p[0]] = reverse @p[0 .. $p[0]]; $flips++ }
        $most = $flips if $flips > $most;
        $checksum += $even ? $flips : -$flips;
        if ($even) {
            @perm[0, 1] = @perm[1, 0];
        } else {
            @perm[1, 2] = @perm[2, 1];
            for my $i (2 .. $n - 1) {
                if ($count[$i] != 1) { $count[$i]--; last }
                if ($i == $n - 1) { print "fannkuch\t$checksum\t$most\n"; return }
                $count[$i] = $i + 1;
                splice @perm, $i + 1, 0, shift @perm;
            }
        }
        $even = !$even;
    }
}

sub n_body {
    my $steps = shift;
    my ($days, $mass) = (365.24, 4 * 3.14159265358979323846**2);
    my @b = (
        [0, 0, 0, 0, 0, 0, $mass],
        [4.84143144246472090, -1.16032004402742839, -0.103622044471123109, 0.00166007664274403694 * $days,
            0.00769901118419740425 * $days, -0.0000690460016972063023 * $days, 0.000954791938424326609 * $mass],
        [8.34336671824457987, 4.12479856412430479, -0.403523417114321381, -0.00276742510726411100 * $days,
            0.00499852801234917238 * $days, 0.0000230417297573763929 * $days, 0.000285885980666130812 * $mass],
        [12.8943695621391310, -15.1111514016986312, -0.223307578892655734, 0.00296460137564761618 * $days,
            0.00237847173959480950 * $days, -0.0000296589568540237556 * $days, 0.0000436624404335156298 * $mass],
        [15.3796971148509165, -25.9193146099879641, 0.179258772950371181, 0.00268067772490389322 * $days,
            0.00162824170038242295 * $days, -0.0000951592254519715870 * $days, 0.0000515138902046611451 * $mass],
    );
    for my $axis (3 .. 5) { $b[0][$axis] -= $_->[$axis] * $_->[6] / $mass for @b[1 .. 4] }
    my $energy = sub {
        my $e = 0;
        for my $i (0 .. 4) {
            my $p = $b[$i];
            $e += 0.5 * $p->[6] * ($p->[3]**2 + $p->[4]**2 + $p->[5]**2);
            for my $q (@b[$i + 1 .. 4]) {
                my ($x, $y, $z) = map { $p->[$_] - $q->[$_] } 0 .. 2;
                $e -= $p->[6] * $q->[6] / sqrt($x * $x + $y * $y + $z * $z);
            }
        }
        printf "n-body\t%.9f\n", $e;
    };
    $energy->();
    for (1 .. $steps) {
        for my $i (0 .. 4) {
            my $p = $b[$i];
            for my $q (@b[$i + 1 .. 4]) {
                my @d = map { $p->[$_] - $q->[$_] } 0 .. 2;
                my $square = $d[0]**2 + $d[1]**2 + $d[2]**2;
                my $size = 0.01 / ($square * sqrt $square);
                for my $axis (0 .. 2) {
                    $p->[3 + $axis] -= $d[$axis] * $q->[6] * $size;
                    $q->[3 + $axis] += $d[$axis] * $p->[6] * $size;
                }
            }
        }
        for my $p (@b) { $p->[$_] += 0.01 * $p->[3 + $_] for 0 .. 2 }
    }
    $energy->();
}

sub spectral_norm {
    my $n = shift;
    my $a = sub { my ($i, $j) = @_; 1 / (($i + $j) * ($i + $j + 1) / 2 + $i + 1) };
    my $multiply = sub {
        my $v = shift;
        my (@once, @twice);
        for my $i (0 .. $n - 1) { $once[$i] += $a->($i, $_) * $v->[$_] for 0 .. $n - 1 }
        for my $i (0 .. $n - 1) { $twice[$i] += $a->($_, $i) * $once[$_] for 0 .. $n - 1 }
        return \@twice;
    };
    my ($u, $v) = ([(1) x $n], []);
    for (1 .. 10) { $v = $multiply->($u); $u = $multiply->($v) }
    my ($above, $below) = (0, 0);
    for (0 .. $n - 1) { $above += $u->[$_] * $v->[$_]; $below += $v->[$_]**2 }
    printf "spectral norm\t%.9f\n", sqrt($above / $below);
}

sub fasta {
    my ($n, $seed, $text) = (shift, 42, "");
    my @letters = (["a", 0.3029549426680], ["c", 0.1979883004921], ["g", 0.1975473066391], ["t", 1]);
    for (1 .. $n) {
        $seed = ($seed * 3877 + 29573) % 139968;
        my $random = $seed / 139968;
        for (@letters) {
            if ($random < $_->[1]) { $text .= $_->[0]; last }
            $random -= $_->[1];
        }
    }
    return $text;
}

sub print_fasta {
    my $sum = 0;
    $sum = ($sum * 31 + ord) % 1000000007 for split //, fasta(shift);
    print "fasta\t$sum\n";
}

sub mandelbrot {
    my ($size, $inside) = (shift, 0);
    for my $row (0 .. $size - 1) {
        for my $column (0 .. $size - 1) {
            my ($cr, $ci, $r, $i, $n) = (2 * $column / $size - 1.5, 2 * $row / $size - 1, 0, 0, 0);
            while ($n < 50 && $r * $r + $i * $i <= 4) { ($r, $i) = ($r * $r - $i * $i + $cr, 2 * $r * $i + $ci); $n++ }
            $inside++ if $n == 50;
        }
    }
    print "mandelbrot\t$inside\n";
}

sub k_nucleotide {
    my $text = fasta(shift);
    for my $length (1, 2) {
        my %counts;
        $counts{substr $text, $_, $length}++ for 0 .. length($text) - $length;
        print "k-nucleotide\t$_\t$counts{$_}\n" for sort keys %counts;
    }
}

my $scale = shift // 1;
binary_trees(8 + $scale);
fannkuch(6 + $scale);
n_body(500 * $scale);
spectral_norm(40 * $scale);
print_fasta(5000 * $scale);
mandelbrot(50 * $scale);
k_nucleotide(4000 * $scale);
