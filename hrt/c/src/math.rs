//! `<math.h>` for `double` and `float`, implemented by the crate `libm`.

use core::ffi::{c_char, c_int, c_long, c_longlong};

macro_rules! export {
    ($($name:ident($($parameter:ident: $kind:ty),*) -> $result:ty;)*) => {
        $(#[unsafe(no_mangle)]
        pub extern "C" fn $name($($parameter: $kind),*) -> $result {
            libm::$name($($parameter),*)
        })*
    };
}

macro_rules! of_one {
    ($($double:ident $single:ident)*) => {
        export! { $($double(x: f64) -> f64; $single(x: f32) -> f32;)* }
    };
}

macro_rules! of_two {
    ($($double:ident $single:ident)*) => {
        export! { $($double(x: f64, y: f64) -> f64; $single(x: f32, y: f32) -> f32;)* }
    };
}

of_one! {
    acos acosf acosh acoshf asin asinf asinh asinhf atan atanf atanh atanhf cbrt cbrtf ceil ceilf cos cosf cosh coshf erf erff
    erfc erfcf exp expf exp2 exp2f exp10 exp10f expm1 expm1f fabs fabsf floor floorf j0 j0f j1 j1f lgamma lgammaf log logf log10
    log10f log1p log1pf log2 log2f rint rintf round roundf roundeven roundevenf sin sinf sinh sinhf sqrt sqrtf tan tanf tanh
    tanhf tgamma tgammaf trunc truncf y0 y0f y1 y1f
}
of_two! {
    atan2 atan2f copysign copysignf fdim fdimf fmax fmaxf fmin fminf fmod fmodf hypot hypotf nextafter nextafterf pow powf
    remainder remainderf
}
export! {
    fma(x: f64, y: f64, z: f64) -> f64;
    fmaf(x: f32, y: f32, z: f32) -> f32;
    ilogb(x: f64) -> c_int;
    ilogbf(x: f32) -> c_int;
    jn(order: c_int, x: f64) -> f64;
    jnf(order: c_int, x: f32) -> f32;
    yn(order: c_int, x: f64) -> f64;
    ynf(order: c_int, x: f32) -> f32;
    ldexp(x: f64, exponent: c_int) -> f64;
    ldexpf(x: f32, exponent: c_int) -> f32;
    scalbn(x: f64, exponent: c_int) -> f64;
    scalbnf(x: f32, exponent: c_int) -> f32;
}

macro_rules! with_results {
    ($($kind:ty: $frexp:ident $modf:ident $sincos:ident $remquo:ident $lgamma_r:ident $scalbln:ident $scalbn:ident $logb:ident $ilogb:ident $nearbyint:ident $rint:ident $nan:ident
        $lrint:ident $llrint:ident $lround:ident $llround:ident $round:ident;)*) => {
        $(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $frexp(x: $kind, exponent: *mut c_int) -> $kind {
            let (fraction, found) = libm::$frexp(x);
            // SAFETY: the caller passes a place for the exponent that is valid for writes.
            unsafe { exponent.write(found) };
            fraction
        }

        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $modf(x: $kind, whole: *mut $kind) -> $kind {
            let (fraction, found) = libm::$modf(x);
            // SAFETY: the caller passes a place for the integral part that is valid for writes.
            unsafe { whole.write(found) };
            fraction
        }

        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $sincos(x: $kind, sine: *mut $kind, cosine: *mut $kind) {
            let (s, c) = libm::$sincos(x);
            // SAFETY: the caller passes places for both results that are valid for writes.
            unsafe {
                sine.write(s);
                cosine.write(c);
            }
        }

        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $remquo(x: $kind, y: $kind, quotient: *mut c_int) -> $kind {
            let (remainder, found) = libm::$remquo(x, y);
            // SAFETY: the caller passes a place for the quotient that is valid for writes.
            unsafe { quotient.write(found) };
            remainder
        }

        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $lgamma_r(x: $kind, sign: *mut c_int) -> $kind {
            let (value, found) = libm::$lgamma_r(x);
            // SAFETY: the caller passes a place for the sign that is valid for writes.
            unsafe { sign.write(found) };
            value
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $scalbln(x: $kind, exponent: c_long) -> $kind {
            libm::$scalbn(x, exponent.clamp(c_long::from(c_int::MIN), c_long::from(c_int::MAX)) as c_int)
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $logb(x: $kind) -> $kind {
            if x == 0.0 {
                return <$kind>::NEG_INFINITY;
            }
            if x.is_finite() { libm::$ilogb(x) as $kind } else { x * x }
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $nearbyint(x: $kind) -> $kind {
            libm::$rint(x)
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $nan(_: *const c_char) -> $kind {
            <$kind>::NAN
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $lrint(x: $kind) -> c_long {
            libm::$rint(x) as c_long
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $llrint(x: $kind) -> c_longlong {
            libm::$rint(x) as c_longlong
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $lround(x: $kind) -> c_long {
            libm::$round(x) as c_long
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $llround(x: $kind) -> c_longlong {
            libm::$round(x) as c_longlong
        }
        )*
    };
}
with_results! {
    f64: frexp modf sincos remquo lgamma_r scalbln scalbn logb ilogb nearbyint rint nan lrint llrint lround llround round;
    f32: frexpf modff sincosf remquof lgammaf_r scalblnf scalbnf logbf ilogbf nearbyintf rintf nanf lrintf llrintf lroundf llroundf roundf;
}

/// A complex number, which the System V ABI passes like a structure of two.
#[repr(C)]
pub struct Complex<T> {
    real: T,
    imaginary: T,
}

macro_rules! complex {
    ($($kind:ty: $creal:ident $cimag:ident $cabs:ident $carg:ident $conj:ident, $hypot:ident $atan2:ident;)*) => {
        $(
        #[unsafe(no_mangle)]
        pub extern "C" fn $creal(z: Complex<$kind>) -> $kind {
            z.real
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $cimag(z: Complex<$kind>) -> $kind {
            z.imaginary
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $cabs(z: Complex<$kind>) -> $kind {
            libm::$hypot(z.real, z.imaginary)
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $carg(z: Complex<$kind>) -> $kind {
            libm::$atan2(z.imaginary, z.real)
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $conj(z: Complex<$kind>) -> Complex<$kind> {
            Complex { real: z.real, imaginary: -z.imaginary }
        }
        )*
    };
}
complex! {
    f64: creal cimag cabs carg conj, hypot atan2;
    f32: crealf cimagf cabsf cargf conjf, hypotf atan2f;
}
