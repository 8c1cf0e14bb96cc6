package hub;

import io.debezium.connector.postgresql.PostgresValueConverter;
import io.debezium.data.SpecialValueDecimal;
import io.debezium.spi.converter.CustomConverter;
import io.debezium.spi.converter.RelationalColumn;
import java.math.BigDecimal;
import java.sql.SQLException;
import java.sql.SQLXML;
import java.time.Duration;
import java.time.Instant;
import java.time.LocalDate;
import java.time.LocalDateTime;
import java.time.LocalTime;
import java.time.OffsetDateTime;
import java.time.OffsetTime;
import java.time.ZoneOffset;
import java.time.temporal.ChronoField;
import java.util.Base64;
import java.util.Calendar;
import java.util.GregorianCalendar;
import java.util.HashMap;
import java.util.Locale;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.connect.data.SchemaBuilder;
import org.postgresql.jdbc.PgArray;
import org.postgresql.util.PGInterval;
import org.postgresql.util.PGobject;

/*
 * In the language of Java 8, which the compiler among the engine's jars knows (cdc/converter.py).
 */

/**
 * Values whose own Debezium form loses something, as the text that a document holds; arrays as Postgres prints them.
 *
 * A snapshot hands over what the JDBC driver read, streaming what the decoder made of the text: both end here.
 * Configured with the columns to convert, one a line: "schema.table TAB column TAB form".
 */
public final class DocumentValues implements CustomConverter<SchemaBuilder, RelationalColumn> {

    private static final long DAY = TimeUnit.DAYS.toMicros(1);
    // What the decoder makes of a timestamp's infinity: the driver's markers, as instants.
    private static final Instant INFINITY = PostgresValueConverter.POSITIVE_INFINITY_INSTANT;
    private static final Instant MINUS_INFINITY = PostgresValueConverter.NEGATIVE_INFINITY_INSTANT;

    private final Map<String, String> forms = new HashMap<>();
    private String unavailable;

    @Override
    public void configure(Properties properties) {
        unavailable = properties.getProperty("unavailable");
        for (String line : properties.getProperty("columns", "").split("\n")) {
            String[] parts = line.split("\t");
            if (parts.length == 3) {
                forms.put(parts[0] + "\t" + parts[1], parts[2]);
            }
        }
    }

    @Override
    public void converterFor(RelationalColumn column, ConverterRegistration<SchemaBuilder> registration) {
        String form = forms.get(column.dataCollection() + "\t" + column.name());
        if (form != null) {
            Object preset = column.hasDefaultValue() ? column.defaultValue() : null;
            registration.register(SchemaBuilder.string().optional(), value -> convert(form, value, preset));
        }
    }

    /** Debezium has the column's default converted too, in a form of its own, for a schema that nobody reads. */
    private Object convert(String form, Object value, Object preset) {
        try {
            return convert(form, value);
        } catch (RuntimeException error) {
            if (value.equals(preset)) {
                return null;
            }
            throw error;
        }
    }

    private Object convert(String form, Object value) {
        if (value == null) {
            return null;
        }
        if (value.getClass() == Object.class) { // the decoder's marker of an unchanged TOAST value
            return unavailable;
        }
        switch (form) {
            case "array":
                return array(value);
            case "bytea":
                return Base64.getEncoder().encodeToString((byte[]) value);
            case "char":
                return text(value).stripTrailing();
            case "date":
                return date(value);
            case "interval":
                return interval(value);
            case "numeric":
                return numeric(value);
            case "time":
                return time(value);
            case "timestamp":
                return timestamp(value);
            case "timestamptz":
                return timestamptz(value);
            case "timetz":
                return timetz(value);
            default:
                return text(value);
        }
    }

    private static IllegalArgumentException unexpected(Object value) {
        return new IllegalArgumentException("a value of " + value.getClass().getName() + " is not expected here");
    }

    private static String text(Object value) {
        if (value instanceof PGobject) {
            PGobject object = (PGobject) value;
            return object.getValue();
        }
        if (value instanceof byte[]) {
            byte[] bytes = (byte[]) value;
            return new String(bytes, java.nio.charset.StandardCharsets.UTF_8);
        }
        if (value instanceof SQLXML) {
            SQLXML xml = (SQLXML) value;
            try {
                return xml.getString();
            } catch (SQLException error) {
                throw new IllegalArgumentException(error);
            }
        }
        if (value instanceof String || value instanceof Number) {
            return value.toString();
        }
        throw unexpected(value);
    }

    private static String array(Object value) {
        if (value instanceof PgArray || value instanceof String) {
            return value.toString();
        }
        throw unexpected(value);
    }

    private static String numeric(Object value) {
        if (value instanceof BigDecimal) {
            BigDecimal number = (BigDecimal) value;
            return number.toPlainString();
        }
        if (value instanceof SpecialValueDecimal) {
            SpecialValueDecimal number = (SpecialValueDecimal) value;
            if (number.getDecimalValue().isPresent()) {
                return number.getDecimalValue().get().toPlainString();
            }
            double special = number.toDouble();
            return Double.isNaN(special) ? "NaN" : special > 0 ? "Infinity" : "-Infinity";
        }
        return text(value);
    }

    private static String date(Object value) {
        if (value instanceof LocalDate) {
            LocalDate date = (LocalDate) value;
            if (date.equals(PostgresValueConverter.POSITIVE_INFINITY_LOCAL_DATE)) {
                return "infinity";
            }
            if (date.equals(PostgresValueConverter.NEGATIVE_INFINITY_LOCAL_DATE)) {
                return "-infinity";
            }
            StringBuilder out = new StringBuilder(10);
            appendDate(out, date);
            return withEra(out, date).toString();
        }
        if (value instanceof java.sql.Date) {
            java.sql.Date date = (java.sql.Date) value;
            return driverDate(date);
        }
        return text(value);
    }

    /** The driver reads a date's fields with the hybrid Julian calendar; the same calendar gives them back. */
    private static String driverDate(java.sql.Date date) {
        if (date.getTime() == org.postgresql.PGStatement.DATE_POSITIVE_INFINITY) {
            return "infinity";
        }
        if (date.getTime() == org.postgresql.PGStatement.DATE_NEGATIVE_INFINITY) {
            return "-infinity";
        }
        Calendar calendar = new GregorianCalendar(java.util.TimeZone.getDefault(), Locale.ROOT);
        calendar.setTime(date);
        StringBuilder out = new StringBuilder(10);
        pad(out, calendar.get(Calendar.YEAR), 4);
        pad(out.append('-'), calendar.get(Calendar.MONTH) + 1, 2);
        pad(out.append('-'), calendar.get(Calendar.DAY_OF_MONTH), 2);
        return (calendar.get(Calendar.ERA) == GregorianCalendar.BC ? out.append(" BC") : out).toString();
    }

    private static String time(Object value) {
        if (value instanceof LocalTime) {
            LocalTime time = (LocalTime) value;
            return timeText(time.toNanoOfDay() / 1000);
        }
        if (value instanceof Duration) {
            Duration duration = (Duration) value;
            return timeText(duration.toNanos() / 1000);
        }
        if (value instanceof Long) {
            Long micros = (Long) value;
            return timeText(micros);
        }
        return text(value);
    }

    private static String timeText(long micros) {
        StringBuilder out = new StringBuilder(15);
        appendTime(out, micros);
        return out.toString();
    }

    private static String timestamp(Object value) {
        if (value instanceof Instant) {
            Instant instant = (Instant) value;
            if (instant.equals(INFINITY)) {
                return "infinity";
            }
            if (instant.equals(MINUS_INFINITY)) {
                return "-infinity";
            }
            return timestampText(LocalDateTime.ofInstant(instant, ZoneOffset.UTC), "");
        }
        if (value instanceof LocalDateTime) {
            LocalDateTime local = (LocalDateTime) value;
            return timestampText(local, "");
        }
        return text(value).replace(' ', 'T').replace("TBC", " BC");
    }

    private static String timestamptz(Object value) {
        if (value instanceof OffsetDateTime) {
            OffsetDateTime moment = (OffsetDateTime) value;
            if (moment.equals(PostgresValueConverter.POSITIVE_INFINITY_OFFSET_DATE_TIME)) {
                return "infinity";
            }
            if (moment.equals(PostgresValueConverter.NEGATIVE_INFINITY_OFFSET_DATE_TIME)) {
                return "-infinity";
            }
            return timestampText(moment.withOffsetSameInstant(ZoneOffset.UTC).toLocalDateTime(), "Z");
        }
        String text = text(value);
        return text.endsWith("infinity") ? text : timestampText(parse(text), "Z");
    }

    /** "2024-01-02 03:04:05.12+05:30 BC", as Postgres prints a timestamptz, in UTC. */
    private static LocalDateTime parse(String text) {
        boolean before = text.endsWith(" BC");
        String rest = before ? text.substring(0, text.length() - 3) : text;
        int space = rest.indexOf(' ');
        String[] date = rest.substring(0, space).split("-");
        int sign = Math.max(rest.indexOf('+', space), rest.indexOf('-', space));
        int year = Integer.parseInt(date[0]);
        LocalDate day = LocalDate.of(before ? 1 - year : year, Integer.parseInt(date[1]), Integer.parseInt(date[2]));
        long micros = micros(rest.substring(space + 1, sign));
        return day.atStartOfDay().plusNanos(1000 * (micros - offset(rest.substring(sign))));
    }

    private static String timetz(Object value) {
        if (value instanceof OffsetTime) {
            OffsetTime time = (OffsetTime) value;
            return timeText(time.withOffsetSameInstant(ZoneOffset.UTC).toLocalTime().toNanoOfDay() / 1000) + "Z";
        }
        String text = text(value);
        int sign = Math.max(text.indexOf('+'), text.indexOf('-'));
        return timeText(Math.floorMod(micros(text.substring(0, sign)) - offset(text.substring(sign)), DAY)) + "Z";
    }

    /** Microseconds of "03:04:05.12". */
    private static long micros(String text) {
        String[] parts = text.split(":");
        BigDecimal seconds = new BigDecimal(parts[2]).movePointRight(6);
        return TimeUnit.MINUTES.toMicros(Long.parseLong(parts[0]) * 60 + Long.parseLong(parts[1])) + seconds.longValueExact();
    }

    /** Microseconds of "+05", "-05:30" or "+15:59:59". */
    private static long offset(String text) {
        String[] parts = text.substring(1).split(":");
        long seconds = 0;
        for (int i = 0; i < 3; i++) {
            seconds = seconds * 60 + (i < parts.length ? Long.parseLong(parts[i]) : 0);
        }
        return TimeUnit.SECONDS.toMicros(text.charAt(0) == '-' ? -seconds : seconds);
    }

    private static String interval(Object value) {
        if (!(value instanceof PGInterval)) {
            throw unexpected(value);
        }
        PGInterval interval = (PGInterval) value;
        StringBuilder out = new StringBuilder("P");
        part(out, interval.getYears(), 'Y');
        part(out, interval.getMonths(), 'M');
        part(out, interval.getDays(), 'D');
        long micros = interval.getWholeSeconds() * 1_000_000L + interval.getMicroSeconds();
        if (interval.getHours() != 0 || interval.getMinutes() != 0 || micros != 0) {
            out.append('T');
            part(out, interval.getHours(), 'H');
            part(out, interval.getMinutes(), 'M');
            if (micros != 0) {
                out.append(BigDecimal.valueOf(micros, 6).stripTrailingZeros().toPlainString()).append('S');
            }
        }
        return out.length() == 1 ? "PT0S" : out.toString();
    }

    private static void part(StringBuilder out, int number, char unit) {
        if (number != 0) {
            out.append(number).append(unit);
        }
    }

    private static String timestampText(LocalDateTime moment, String suffix) {
        StringBuilder out = new StringBuilder(27);
        appendDate(out, moment.toLocalDate());
        appendTime(out.append('T'), moment.toLocalTime().toNanoOfDay() / 1000);
        return withEra(out.append(suffix), moment.toLocalDate()).toString();
    }

    private static void appendDate(StringBuilder out, LocalDate date) {
        pad(out, date.get(ChronoField.YEAR_OF_ERA), 4);
        pad(out.append('-'), date.getMonthValue(), 2);
        pad(out.append('-'), date.getDayOfMonth(), 2);
    }

    private static StringBuilder withEra(StringBuilder out, LocalDate date) {
        return date.getYear() <= 0 ? out.append(" BC") : out;
    }

    private static void appendTime(StringBuilder out, long micros) {
        long seconds = micros / 1_000_000;
        pad(out, (int) (seconds / 3600), 2);
        pad(out.append(':'), (int) (seconds / 60 % 60), 2);
        pad(out.append(':'), (int) (seconds % 60), 2);
        int fraction = (int) (micros % 1_000_000);
        if (fraction != 0) {
            pad(out.append('.'), fraction, 6);
            while (out.charAt(out.length() - 1) == '0') {
                out.setLength(out.length() - 1);
            }
        }
    }

    private static void pad(StringBuilder out, int number, int width) {
        String digits = Integer.toString(number);
        for (int i = digits.length(); i < width; i++) {
            out.append('0');
        }
        out.append(digits);
    }
}
