#lang racket/base
;; Seven programs in the manner of the Language Benchmark Game, as small as a test needs them.
(require racket/flonum racket/list racket/math racket/string)

(define (line . parts) (displayln (string-join (map (lambda (part) (format "~a" part)) parts) "\t")))
(define (fixed x) ; nine digits behind the point, as C prints them
  (define n (inexact->exact (round (* (inexact->exact (abs x)) 1000000000))))
  (define digits (number->string (remainder n 1000000000)))
  (string-append (if (< x 0) "-" "") (number->string (quotient n 1000000000)) "."
                 (make-string (- 9 (string-length digits)) #\0) digits))

(define (tree depth) (if (zero? depth) '() (cons (tree (sub1 depth)) (tree (sub1 depth)))))
(define (nodes t) (if (null? t) 1 (+ 1 (nodes (car t)) (nodes (cdr t)))))
(define (binary-trees depth)
  (line "binary trees"
        (for*/sum ([d (in-range 4 (add1 depth) 2)] [_ (in-range (arithmetic-shift 1 (- depth d)))])
          (nodes (tree d)))))

(define (fannkuch n)
  (define perm (build-vector n values))
  (define count (build-vector n add1))
  (define (swap! v i j)
    (define x (vector-ref v i))
    (vector-set! v i (vector-ref v j))
    (vector-set! v j x))
  (define (flips)
    (define p (vector-copy-of perm))
    (let loop ([flips 0])
      (define first (vector-ref p 0))
      (cond [(zero? first) flips]
            [else (for ([i (in-range (quotient (add1 first) 2))]) (swap! p i (- first i)))
                  (loop (add1 flips))])))
  (let loop ([even? #t] [checksum 0] [most 0])
    (define f (flips))
    (define sum ((if even? + -) checksum f))
    (define max-flips (max most f))
    (cond
      [even? (swap! perm 0 1) (loop #f sum max-flips)]
      [else
       (swap! perm 1 2)
       (let next ([i 2])
         (cond
           [(= i n) (line "fannkuch" sum max-flips)]
           [(not (= 1 (vector-ref count i)))
            (vector-set! count i (sub1 (vector-ref count i)))
            (loop #t sum max-flips)]
           [(= i (sub1 n)) (line "fannkuch" sum max-flips)]
           [else
            (vector-set! count i (add1 i))
            (define first (vector-ref perm 0))
            (for ([k (in-range (add1 i))]) (vector-set! perm k (vector-ref perm (add1 k))))
            (vector-set! perm (add1 i) first)
            (next (add1 i))]))])))
(define (vector-copy-of v) (let ([copy (make-vector (vector-length v))]) (vector-copy! copy 0 v) copy))

(define (n-body steps)
  (define days 365.24)
  (define mass (* 4 pi pi))
  (define (body x y z vx vy vz m) (flvector x y z (* vx days) (* vy days) (* vz days) (* m mass)))
  (define bodies
    (list (body 0.0 0.0 0.0 0.0 0.0 0.0 1.0)
          (body 4.84143144246472090 -1.16032004402742839 -0.103622044471123109 0.00166007664274403694
                0.00769901118419740425 -0.0000690460016972063023 0.000954791938424326609)
          (body 8.34336671824457987 4.12479856412430479 -0.403523417114321381 -0.00276742510726411100
                0.00499852801234917238 0.0000230417297573763929 0.000285885980666130812)
          (body 12.8943695621391310 -15.1111514016986312 -0.223307578892655734 0.00296460137564761618
                0.00237847173959480950 -0.0000296589568540237556 0.0000436624404335156298)
          (body 15.3796971148509165 -25.9193146099879641 0.179258772950371181 0.00268067772490389322
                0.00162824170038242295 -0.0000951592254519715870 0.0000515138902046611451)))
  (define (get b i) (flvector-ref b i))
  (define (add! b i x) (flvector-set! b i (fl+ (flvector-ref b i) x)))
  (for ([axis '(3 4 5)])
    (flvector-set! (car bodies) axis (/ (- (for/sum ([b bodies]) (* (get b axis) (get b 6)))) mass)))
  (define (distance b c) (for/list ([axis 3]) (fl- (get b axis) (get c axis))))
  (define (energy)
    (line "n-body"
          (fixed
           (let loop ([left bodies] [e 0.0])
             (if (null? left)
                 e
                 (let ([b (car left)])
                   (loop (cdr left)
                         (for/fold ([e (+ e (* 0.5 (get b 6) (for/sum ([axis '(3 4 5)]) (sqr (get b axis)))))])
                                   ([c (cdr left)])
                           (- e (/ (* (get b 6) (get c 6)) (sqrt (apply + (map sqr (distance b c)))))))))))))) 
  (energy)
  (for ([_ steps])
    (let loop ([left bodies])
      (unless (null? left)
        (define b (car left))
        (for ([c (cdr left)])
          (define d (distance b c))
          (define square (apply fl+ (map (lambda (x) (fl* x x)) d)))
          (define size (fl/ 0.01 (fl* square (flsqrt square))))
          (for ([x d] [axis '(3 4 5)])
            (add! b axis (fl- 0.0 (fl* (fl* x (get c 6)) size)))
            (add! c axis (fl* (fl* x (get b 6)) size))))
        (loop (cdr left))))
    (for* ([b bodies] [axis 3]) (add! b axis (fl* 0.01 (get b (+ 3 axis))))))
  (energy))

(define (spectral-norm n)
  (define (a i j) (/ 1.0 (+ (quotient (* (+ i j) (+ i j 1)) 2) i 1)))
  (define (multiply v)
    (define once (for/flvector #:length n ([i n]) (for/fold ([s 0.0]) ([j n]) (fl+ s (fl* (a i j) (flvector-ref v j))))))
    (for/flvector #:length n ([i n]) (for/fold ([s 0.0]) ([j n]) (fl+ s (fl* (a j i) (flvector-ref once j))))))
  (define-values (u v)
    (for/fold ([u (make-flvector n 1.0)] [v #f]) ([_ 10])
      (let ([v (multiply u)]) (values (multiply v) v))))
  (define (dot x y) (for/fold ([s 0.0]) ([i n]) (fl+ s (fl* (flvector-ref x i) (flvector-ref y i)))))
  (line "spectral norm" (fixed (sqrt (/ (dot u v) (dot v v))))))

(define letters '((#\a . 0.3029549426680) (#\c . 0.1979883004921) (#\g . 0.1975473066391) (#\t . 1.0)))
(define (fasta n)
  (define text (make-string n))
  (for/fold ([seed 42]) ([i n])
    (define next (modulo (+ (* seed 3877) 29573) 139968))
    (string-set! text i
                 (let loop ([random (/ next 139968.0)] [left letters])
                   (if (< random (cdar left)) (caar left) (loop (- random (cdar left)) (cdr left)))))
    next)
  text)
(define (print-fasta n)
  (line "fasta" (for/fold ([sum 0]) ([c (fasta n)]) (modulo (+ (* sum 31) (char->integer c)) 1000000007))))

(define (mandelbrot size)
  (line "mandelbrot"
        (for*/sum ([row size] [column size])
          (define cr (- (/ (* 2.0 column) size) 1.5))
          (define ci (- (/ (* 2.0 row) size) 1.0))
          (let loop ([r 0.0] [i 0.0] [n 0])
            (cond [(= n 50) 1]
                  [(fl> (fl+ (fl* r r) (fl* i i)) 4.0) 0]
                  [else (loop (fl+ (fl- (fl* r r) (fl* i i)) cr) (fl+ (fl* 2.0 (fl* r i)) ci) (add1 n))])))))

(define (k-nucleotide n)
  (define text (fasta n))
  (for ([length '(1 2)])
    (define counts (make-hash))
    (for ([i (- n length -1)]) (hash-update! counts (substring text i (+ i length)) add1 0))
    (for ([name (sort (hash-keys counts) string<?)]) (line "k-nucleotide" name (hash-ref counts name)))))

(define scale
  (let ([arguments (current-command-line-arguments)])
    (if (zero? (vector-length arguments)) 1 (string->number (vector-ref arguments 0)))))
(binary-trees (+ 8 scale))
(fannkuch (+ 6 scale))
(n-body (* 500 scale))
(spectral-norm (* 40 scale))
(print-fasta (* 5000 scale))
(mandelbrot (* 50 scale))
(k-nucleotide (* 4000 scale))
