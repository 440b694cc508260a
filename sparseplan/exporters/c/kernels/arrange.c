/* Moves of elements. n: rank, then of each axis: extent of y, extent of x, rule, two numbers. */

enum { SP_LINEAR, SP_EDGE, SP_REFLECT, SP_TILE, SP_TABLE };
#define SP_AXES 8u

/* The entry of x that entry o of an axis of y is, or -1. */
static int32_t sp_source(const sp_args *a, const int32_t *axis, int32_t o) {
    int32_t i, last = axis[1] - 1;
    switch (axis[2]) {
        case SP_LINEAR: i = axis[3] + o * axis[4]; break;
        case SP_EDGE:
            i = o - axis[3];
            return i < 0 ? 0 : i > last ? last : i;
        case SP_REFLECT:
            i = o - axis[3];
            i = last - (i < 0 ? -i : i);
            return last - (i < 0 ? -i : i);
        case SP_TILE: return o % axis[1];
        default: return a->n[axis[3] + o];
    }
    return i >= 0 && i <= last ? i : -1;
}

/* f: what stands where nothing of x is. */
static void sp_arrange_to(const sp_args *a, const sp_view *w) {
    const sp_view *x = &sp_views[a->r[0]];
    uint32_t b, k, j, d, rank = (uint32_t)a->n[0];
    SP_EACH_RANGE(w, b, k) {
        uint32_t n, i = sp_range(w, k, &n);
        for (j = 0; j < n; j++) {
            uint32_t e = i + j, at = 0, stride = 1;
            int inside = 1;
            for (d = rank; d--;) {
                const int32_t *axis = a->n + 1 + 5 * d;
                int32_t s = sp_source(a, axis, (int32_t)(e % (uint32_t)axis[0]));
                if (s < 0) inside = 0;
                else at += (uint32_t)s * stride;
                stride *= (uint32_t)axis[1];
                e /= (uint32_t)axis[0];
            }
            sp_put(w, b, i + j, inside ? sp_get(x, b, at) : a->f[0]);
        }
    }
}

static void sp_arrange(const sp_args *a) {
    uint32_t q;
    for (q = 0; q < a->writes; q++) sp_arrange_to(a, &sp_views[a->w[q]]);
}

/* The first entry of y from o on that is entry i of x, or the extent. */
static int32_t sp_next(const sp_args *a, const int32_t *axis, int32_t i, int32_t o) {
    while (o < axis[0] && sp_source(a, axis, o) != i) o++;
    return o;
}

static void sp_arrange_grad(const sp_args *a) {
    const sp_view *dy = &sp_views[a->r[0]];
    uint32_t q, b, k, j, d, rank = (uint32_t)a->n[0];
    for (q = 0; q < a->writes; q++) {
        const sp_view *w = &sp_views[a->w[q]];
        SP_EACH_RANGE(w, b, k) {
            uint32_t n, i = sp_range(w, k, &n);
            for (j = 0; j < n; j++) {
                int32_t o[SP_AXES], x[SP_AXES];
                uint32_t e = i + j, more = 1;
                float total = 0.0f;
                for (d = rank; d--;) {
                    const int32_t *axis = a->n + 1 + 5 * d;
                    x[d] = (int32_t)(e % (uint32_t)axis[1]);
                    e /= (uint32_t)axis[1];
                    o[d] = sp_next(a, axis, x[d], 0);
                    if (o[d] >= axis[0]) more = 0;
                }
                while (more) {
                    uint32_t at = 0;
                    for (d = 0; d < rank; d++) at = at * (uint32_t)a->n[1 + 5 * d] + (uint32_t)o[d];
                    total += sp_get(dy, b, at);
                    more = 0;
                    for (d = rank; d-- && !more;) {
                        const int32_t *axis = a->n + 1 + 5 * d;
                        o[d] = sp_next(a, axis, x[d], o[d] + 1);
                        more = o[d] < axis[0];
                        if (!more) o[d] = sp_next(a, axis, x[d], 0);
                    }
                }
                sp_put(w, b, i + j, total);
            }
        }
    }
}

/* Sums of products of two arrays by strides: y[i] = sum over j of x0[i, j] * x1[i, j] (or of x0 alone).
   n: axes of y, axes that are summed over, then of each the extent and the strides in x0 and x1. f: factor. */
static void sp_contract(const sp_args *a) {
    const sp_view *x = &sp_views[a->r[0]], *z = a->reads > 1u ? &sp_views[a->r[1]] : 0;
    uint32_t q, b, k, j, t, d, rank = (uint32_t)a->n[0], summed = (uint32_t)a->n[1], terms = 1;
    const int32_t *axes = a->n + 2, *sums = axes + 3 * rank;
    for (d = 0; d < summed; d++) terms *= (uint32_t)sums[3 * d];
    for (q = 0; q < a->writes; q++) {
        const sp_view *w = &sp_views[a->w[q]];
        SP_EACH_RANGE(w, b, k) {
            uint32_t n, i = sp_range(w, k, &n);
            for (j = 0; j < n; j++) {
                uint32_t e = i + j, p = 0, r = 0;
                float total = 0.0f;
                for (d = rank; d--;) {
                    uint32_t at = e % (uint32_t)axes[3 * d];
                    e /= (uint32_t)axes[3 * d];
                    p += at * (uint32_t)axes[3 * d + 1];
                    r += at * (uint32_t)axes[3 * d + 2];
                }
                for (t = 0; t < terms; t++) {
                    uint32_t u = t, pp = p, rr = r;
                    for (d = summed; d--;) {
                        uint32_t at = u % (uint32_t)sums[3 * d];
                        u /= (uint32_t)sums[3 * d];
                        pp += at * (uint32_t)sums[3 * d + 1];
                        rr += at * (uint32_t)sums[3 * d + 2];
                    }
                    total += z ? sp_get(x, b, pp) * sp_get(z, b, rr) : sp_get(x, b, pp);
                }
                sp_put(w, b, i + j, total * a->f[0]);
            }
        }
    }
}

/* Resizing, every axis behind the channels by itself. n: axes, then of each: extents of x and y, taps of an entry of y,
   where its entries of x begin in n, where the weights of these begin in f, where the first and the last entries of y
   that read each entry of x begin in n. */
static void sp_resize(const sp_args *a) {
    const sp_view *x = &sp_views[a->r[0]], *w = &sp_views[a->w[0]];
    uint32_t b, k, j, d, t, rank = (uint32_t)a->n[0], terms = 1;
    for (d = 0; d < rank; d++) terms *= (uint32_t)a->n[1 + 7 * d + 2];
    SP_EACH_RANGE(w, b, k) {
        uint32_t n, i = sp_range(w, k, &n);
        for (j = 0; j < n; j++) {
            float total = 0.0f;
            for (t = 0; t < terms; t++) {
                uint32_t e = i + j, u = t, at = 0, stride = 1;
                float weight = 1.0f;
                for (d = rank; d--;) {
                    const int32_t *axis = a->n + 1 + 7 * d;
                    uint32_t taps = (uint32_t)axis[2], entry = e % (uint32_t)axis[1] * taps + u % taps;
                    at += (uint32_t)a->n[(uint32_t)axis[3] + entry] * stride;
                    weight *= a->f[(uint32_t)axis[4] + entry];
                    e /= (uint32_t)axis[1];
                    u /= taps;
                    stride *= (uint32_t)axis[0];
                }
                total += weight * sp_get(x, b, e * stride + at);
            }
            sp_put(w, b, i + j, total);
        }
    }
}

/* The weight of entry i of x in entry o of y. */
static float sp_tap(const sp_args *a, const int32_t *axis, int32_t o, int32_t i) {
    float total = 0.0f;
    int32_t t;
    for (t = o * axis[2]; t < (o + 1) * axis[2]; t++)
        if (a->n[axis[3] + t] == i) total += a->f[axis[4] + t];
    return total;
}

static void sp_resize_grad(const sp_args *a) {
    const sp_view *dy = &sp_views[a->r[0]];
    uint32_t q, b, k, j, d, rank = (uint32_t)a->n[0];
    for (q = 0; q < a->writes; q++) {
        const sp_view *w = &sp_views[a->w[q]];
        SP_EACH_RANGE(w, b, k) {
            uint32_t n, i = sp_range(w, k, &n);
            for (j = 0; j < n; j++) {
                int32_t o[SP_AXES], x[SP_AXES];
                uint32_t e = i + j, more = 1;
                float total = 0.0f;
                for (d = rank; d--;) {
                    const int32_t *axis = a->n + 1 + 7 * d;
                    x[d] = (int32_t)(e % (uint32_t)axis[0]);
                    e /= (uint32_t)axis[0];
                    o[d] = a->n[axis[5] + x[d]];
                    if (o[d] > a->n[axis[6] + x[d]]) more = 0;
                }
                while (more) {
                    uint32_t at = e;
                    float weight = 1.0f;
                    for (d = 0; d < rank; d++) {
                        const int32_t *axis = a->n + 1 + 7 * d;
                        at = at * (uint32_t)axis[1] + (uint32_t)o[d];
                        weight *= sp_tap(a, axis, o[d], x[d]);
                    }
                    if (weight != 0.0f) total += weight * sp_get(dy, b, at);
                    more = 0;
                    for (d = rank; d-- && !more;) {
                        const int32_t *axis = a->n + 1 + 7 * d;
                        more = ++o[d] <= a->n[axis[6] + x[d]];
                        if (!more) o[d] = a->n[axis[5] + x[d]];
                    }
                }
                sp_put(w, b, i + j, total);
            }
        }
    }
}
