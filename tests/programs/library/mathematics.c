#include <complex.h>
#include <math.h>
#include <stdio.h>

/* Twelve digits: the last ones may differ from one library to the other. */
static void show(const char *name, double value) { printf("%s %.12g\n", name, value); }
static void show_float(const char *name, float value) { printf("%s %.5g\n", name, (double)value); }

#define ONE(name, x) show(#name, name(x)), show_float(#name "f", name##f(x))
#define TWO(name, x, y) show(#name, name(x, y)), show_float(#name "f", name##f(x, y))

void mathematics(void) {
    volatile double half = 0.5, two = 2.5, wide = 7.25;
    ONE(acos, half), ONE(acosh, two), ONE(asin, half), ONE(asinh, two), ONE(atan, half), ONE(atanh, half);
    ONE(cbrt, wide), ONE(ceil, two), ONE(cos, two), ONE(cosh, two), ONE(erf, half), ONE(erfc, half);
    ONE(exp, two), ONE(exp2, two), ONE(exp10, two), ONE(expm1, half), ONE(fabs, -two), ONE(floor, two);
    ONE(j0, two), ONE(j1, two), ONE(y0, two), ONE(y1, two), ONE(lgamma, wide), ONE(tgamma, two);
    ONE(log, wide), ONE(log10, wide), ONE(log1p, wide), ONE(log2, wide), ONE(logb, wide), ONE(rint, two);
    ONE(nearbyint, two), ONE(round, two), ONE(roundeven, two), ONE(sin, two), ONE(sinh, two), ONE(sqrt, wide);
    ONE(tan, two), ONE(tanh, half), ONE(trunc, -two);
    TWO(atan2, two, wide), TWO(copysign, two, -wide), TWO(fdim, wide, two), TWO(fmax, two, wide), TWO(fmin, two, wide);
    TWO(fmod, wide, two), TWO(hypot, two, wide), TWO(nextafter, two, wide), TWO(pow, two, wide), TWO(remainder, wide, two);
    TWO(ldexp, two, 3), TWO(scalbn, two, -3), TWO(scalbln, two, 5);
    show("fma", fma(two, wide, half)), show_float("fmaf", fmaf(two, wide, half));
    show("jn", jn(3, two)), show_float("jnf", jnf(3, two)), show("yn", yn(2, two)), show_float("ynf", ynf(2, two));
    printf("ilogb %d %d\n", ilogb(wide), ilogbf(wide));
    printf("lrint %ld %ld %lld %lld\n", lrint(two), lrintf(two), llrint(two), llrintf(two));
    printf("lround %ld %ld %lld %lld\n", lround(two), lroundf(two), llround(two), llroundf(two));
    int number = 0;
    double whole, sine, cosine;
    float whole_float, sine_float, cosine_float;
    double part = frexp(wide, &number);
    printf("frexp %g %d\n", part, number);
    part = frexpf(wide, &number);
    printf("frexpf %g %d\n", part, number);
    part = modf(-wide, &whole);
    printf("modf %g %g\n", part, whole);
    part = modff(wide, &whole_float);
    printf("modff %g %g\n", part, (double)whole_float);
    void sincos(double, double *, double *), sincosf(float, float *, float *);
    sincos(two, &sine, &cosine), sincosf(two, &sine_float, &cosine_float);
    printf("sincos %.12g %.12g %.5g %.5g\n", sine, cosine, (double)sine_float, (double)cosine_float);
    part = remquo(wide, two, &number);
    printf("remquo %g %d\n", part, number & 7);
    part = remquof(wide, two, &number);
    printf("remquof %g %d\n", part, number & 7);
    part = lgamma_r(-half, &number);
    printf("lgamma_r %.12g %d\n", part, number);
    part = lgammaf_r(-half, &number);
    printf("lgammaf_r %.5g %d\n", part, number);
    printf("nan %d %d\n", isnan(nan("")) != 0, isnan(nanf("")) != 0);
    double complex z = (half + two * I) * (wide - half * I) / (two + wide * I);
    printf("complex %.12g %.12g %.12g %.12g %.12g\n", creal(z), cimag(z), cabs(z), carg(z), cimag(conj(z)));
    float complex w = z;
    printf("complexf %.5g %.5g %.5g %.5g %.5g\n", (double)crealf(w), (double)cimagf(w), (double)cabsf(w), (double)cargf(w), (double)cimagf(conjf(w)));
    unsigned __int128 large = ((unsigned __int128)1 << 100) / (unsigned)wide;
    printf("128 bits %llu %llu\n", (unsigned long long)(large >> 64), (unsigned long long)large);
}
