// What a Java client sees of a stream, one line for each call that okhttp's EventSourceListener would get:
//   java Listen.java URL BODY [HEADER VALUE]...
//   open CONTENT_TYPE, then event TYPE BASE64_OF_DATA for each, then closed; or failure STATUS BASE64_OF_BODY.
// The JDK's own HTTP client as it comes; events are read as HTML's section 9.2.6 says.
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.util.Base64;

public class Listen {
    public static void main(String[] given) throws Exception {
        var request = HttpRequest.newBuilder(URI.create(given[0]))
                .header("Accept", "text/event-stream")
                .header("Content-Type", "application/json; charset=utf-8")
                .POST(HttpRequest.BodyPublishers.ofString(given[1]));
        for (int index = 2; index < given.length; index += 2) request.header(given[index], given[index + 1]);
        var response = HttpClient.newHttpClient().send(request.build(), BodyHandlers.ofInputStream());
        var type = response.headers().firstValue("content-type").orElse("");
        try (var body = response.body()) {
            if (response.statusCode() != 200 || !type.split(";")[0].equals("text/event-stream")) {
                System.out.println("failure " + response.statusCode() + " " + encoded(body.readAllBytes()));
                return;
            }
            System.out.println("open " + type);
            readEvents(body);
            System.out.println("closed");
        }
    }

    static void readEvents(InputStream body) throws IOException {
        // Its lines end with \r\n, \n or \r, as those of the standard do.
        var lines = new BufferedReader(new InputStreamReader(body, StandardCharsets.UTF_8));
        var data = new StringBuilder();
        var type = "message";
        for (var line = lines.readLine(); line != null; line = lines.readLine()) {
            int colon = line.indexOf(':');
            var field = colon < 0 ? line : line.substring(0, colon);
            var value = colon < 0 ? "" : line.substring(colon + 1);
            if (value.startsWith(" ")) value = value.substring(1);
            if (line.isEmpty()) {
                if (data.length() > 0) {
                    data.setLength(data.length() - 1);
                    System.out.println("event " + type + " " + encoded(data.toString().getBytes(StandardCharsets.UTF_8)));
                }
                data.setLength(0);
                type = "message";
            } else if (field.equals("data")) {
                data.append(value).append('\n');
            } else if (field.equals("event")) {
                type = value;
            }
        }
    }

    static String encoded(byte[] bytes) {
        return Base64.getEncoder().encodeToString(bytes);
    }
}
