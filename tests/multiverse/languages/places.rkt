#lang racket/base
;; Places, futures, threads and custodians.
(require racket/place racket/future)
(define (tree depth) (if (zero? depth) '() (cons (tree (sub1 depth)) (tree (sub1 depth)))))
(define (nodes t) (if (null? t) 1 (+ 1 (nodes (car t)) (nodes (cdr t)))))
(provide main)
(define (worker)
  (place channel
    (let loop ()
      (define depth (place-channel-get channel))
      (when depth
        (place-channel-put channel (nodes (tree depth)))
        (loop)))))
(define (main)
  (define places (for/list ([_ 3]) (worker)))
  (for ([p places] [k '(10 11 12)]) (place-channel-put p k))
  (displayln (for/list ([p places]) (place-channel-get p)))
  (for ([p places]) (place-channel-put p #f) (place-wait p))
  (define futures (for/list ([k 4]) (future (lambda () (for/fold ([s 0.0]) ([i 100000]) (+ s (* k i)))))))
  (displayln (map touch futures))
  (define results (make-channel))
  (for ([k 10]) (thread (lambda () (sleep 0.001) (channel-put results (* k k)))))
  (displayln (for/sum ([_ 10]) (channel-get results))))
(module+ main (main))
