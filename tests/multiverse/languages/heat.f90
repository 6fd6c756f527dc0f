! Heat that spreads over a plate, by OpenMP.
program heat
  implicit none
  integer, parameter :: n = 200
  real(8) :: a(n, n), b(n, n)
  integer :: i, j, step
  a = 0; a(1, :) = 100
  do step = 1, 50
    b = a
    !$omp parallel do private(i)
    do j = 2, n - 1
      do i = 2, n - 1
        b(i, j) = 0.25d0 * (a(i-1, j) + a(i+1, j) + a(i, j-1) + a(i, j+1))
      end do
    end do
    a = b
  end do
  print '(f12.6)', sum(a)
  write (*, *) 'rows', count(a(:, n / 2) > 1)
end program heat
