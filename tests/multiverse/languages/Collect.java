import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;

/** Garbage collections under four threads, and what the virtual machine makes of faults. */
public class Collect {
    private static long fill(int thread) {
        long sum = 0;
        List<byte[]> kept = new ArrayList<>();
        for (int i = 0; i < 20000; i++) {
            byte[] block = new byte[1000 + thread];
            block[5] = (byte) i;
            sum += block[5] + block.length;
            if (i % 50 == 0) kept.add(block);
        }
        return sum + kept.size();
    }

    private static int deep(int depth) {
        return deep(depth + 1) + 1;
    }

    public static void main(String[] arguments) throws Exception {
        ExecutorService threads = Executors.newFixedThreadPool(4);
        List<Future<Long>> sums = new ArrayList<>();
        for (int i = 0; i < 4; i++) {
            int thread = i;
            sums.add(threads.submit(() -> fill(thread)));
        }
        long sum = 0;
        for (Future<Long> one : sums) sum += one.get();
        threads.shutdown();
        try {
            Object nothing = arguments.length > 100 ? "" : null;
            System.out.println(nothing.hashCode());
        } catch (NullPointerException exception) {
            System.out.println("nothing");
        }
        try {
            System.out.println(deep(0));
        } catch (StackOverflowError error) {
            System.out.println("too deep");
        }
        System.out.println("sum " + sum);
    }
}
