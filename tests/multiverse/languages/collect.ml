(* Garbage collections of OCaml, exceptions, threads and signals. *)
type tree = Leaf | Node of tree * tree
let rec tree depth = if depth = 0 then Leaf else Node (tree (depth - 1), tree (depth - 1))
let rec nodes = function Leaf -> 1 | Node (l, r) -> 1 + nodes l + nodes r
let old = Array.make 2000 Leaf
let () =
  for round = 1 to 4 do
    Array.iteri (fun i _ -> old.(i) <- tree (i mod 4)) old;
    if round mod 2 = 0 then Gc.full_major () else Gc.compact ()
  done;
  Printf.printf "%d %d\n" (nodes (tree 14)) (Array.fold_left (fun sum t -> sum + nodes t) 0 old);
  (try ignore (1 / (Array.length [||])) with Division_by_zero -> print_endline "divided by zero");
  let rec deep n = 1 + deep (n + 1) in
  (try ignore (deep 0) with Stack_overflow -> print_endline "stack overflow");
  let came = ref 0 in
  Sys.set_signal Sys.sigalrm (Sys.Signal_handle (fun _ -> incr came));
  ignore (Sys.command "kill -ALRM $PPID");
  let rec wait n = if !came = 0 && n > 0 then wait (n - 1 + nodes Leaf * 0) in
  wait 1_000_000_000;
  Printf.printf "signals %d\n" !came
